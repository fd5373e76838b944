"""Placement: which engine gets a step. Every policy ranks the engines for one step, best first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from xxhash import xxh3_64_intdigest

from llmd_agents.hints import ForkPosition

RUNNING_COST: Final = 4096
"""What one request already running costs the next, as bytes of prompt: its decoding slows each step down."""

QUEUED_COST: Final = 0.25
"""What a byte of prompt that waits to be computed costs. Not its whole time: an engine that serves first what
is cached lets a step that holds its context pass it by, and to compute what another holds delays everyone."""

LOADING_COST: Final = 0.08
"""What loading a byte of prompt from a lower tier costs, beside computing it."""

COPYING_COST: Final = 0.5
"""What copying a byte of prompt from a peer costs. More than the time it takes beside computing it: a copy
pushes other context out, and a program that moves back and forth is copied each time."""


DELAY_COST: Final = 0.5
"""What a byte of prompt to compute costs more for each branch of a fork that decodes there: computing holds
up all of them, and their join waits for the slowest."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine, as one step sees it. Sizes are bytes of canonical prompt.

    Attributes:
        resident: how much of the step's prompt it holds on the device.
        queued: how much prompt, not resident, other steps that are under way brought there.
        running: how many steps are under way there.
        loadable: how much more of the prompt it holds in lower tiers.
        copyable: how much more than that it can copy from a peer.
        branches: how many of the steps under way there are of forks' branches.
    """

    engine: str
    resident: int
    queued: int
    running: int
    loadable: int = 0
    copyable: int = 0
    branches: int = 0


Placement: TypeAlias = Callable[[Sequence[Candidate], int, str], list[str]]
"""Ranks engines: the candidates, the bytes of the step's prompt, and a key that breaks ties."""


def load_and_affinity(candidates: Sequence[Candidate], prompt: int, key: str) -> list[str]:
    """Ranks engines by what remains to be done for the step: its own missing prefix, what waits there
    already, and how much that which runs there slows it down. (The cost of NVIDIA Dynamo's KV router, counted
    in bytes instead of blocks.)

    Args:
        prompt: bytes of the step's prompt.
        key: breaks ties, so that equal engines share programs out evenly and each keeps its own.
    """

    def cost(candidate: Candidate) -> tuple[float, int]:
        missing = max(prompt - candidate.resident - candidate.loadable - candidate.copyable, 0)
        brought = LOADING_COST * candidate.loadable + COPYING_COST * candidate.copyable
        load = QUEUED_COST * candidate.queued + RUNNING_COST * candidate.running
        delay = DELAY_COST * candidate.branches * missing
        return missing + brought + load + delay, _hash(key, candidate.engine)

    return [candidate.engine for candidate in sorted(candidates, key=cost)]


def prefix_aware(candidates: Sequence[Candidate], prompt: int, key: str) -> list[str]:
    """Ranks engines by the longest prefix that they hold on the device, minus the steps under way there."""

    def score(candidate: Candidate) -> tuple[float, int]:
        return RUNNING_COST * candidate.running - candidate.resident, _hash(key, candidate.engine)

    return [candidate.engine for candidate in sorted(candidates, key=score)]


class RoundRobin:
    """Takes the engines in turn, whatever they hold."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, candidates: Sequence[Candidate], prompt: int, key: str) -> list[str]:
        engines = [candidate.engine for candidate in candidates]
        if not engines:
            return []
        start = self._next % len(engines)
        self._next += 1
        return engines[start:] + engines[:start]


PLACEMENTS: Final = ("load_and_affinity", "prefix_aware", "round_robin")


def placement_by(name: str) -> Placement:
    """Returns a policy by its name.

    Raises:
        ValueError: if there is none of that name.
    """
    if name == "load_and_affinity":
        return load_and_affinity
    if name == "prefix_aware":
        return prefix_aware
    if name == "round_robin":
        return RoundRobin()
    raise ValueError(f"placement {name!r} is none of {', '.join(PLACEMENTS)}")


def spread(candidates: Sequence[Candidate], fork: ForkPosition) -> list[str]:
    """Ranks engines for the first step of a fork's branch, so that the branches share all engines evenly.

    The order follows from the fork's id alone: replicas of the router agree on it without talking.
    """
    engines = sorted(
        (candidate.engine for candidate in candidates), key=lambda engine: _hash(fork.id, engine)
    )
    start = fork.index % len(engines) if engines else 0
    return engines[start:] + engines[:start]


def _hash(key: str, engine: str) -> int:
    return xxh3_64_intdigest(f"{key}\0{engine}".encode())
