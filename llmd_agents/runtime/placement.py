"""Placement: which engine gets a step."""

from collections.abc import Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from llmd_agents.hints import ForkPosition

RUNNING_COST = 4096
"""What one request already running costs the next, as bytes of prompt: its decoding slows each step down."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine, as one step sees it. Sizes are bytes of canonical prompt.

    Attributes:
        resident: how much of the step's prompt it holds already.
        queued: how much prompt, not resident, other steps that are under way brought there.
        running: how many steps are under way there.
    """

    engine: str
    resident: int
    queued: int
    running: int


def by_residency_and_load(candidates: Sequence[Candidate], prompt: int, key: str) -> list[str]:
    """Ranks engines by what remains to be computed before the step's first token: its own missing prefix and
    what waits there already. (The cost of NVIDIA Dynamo's KV router, counted in bytes instead of blocks.)

    Args:
        prompt: bytes of the step's prompt.
        key: breaks ties, so that equal engines share programs out evenly and each keeps its own.
    """

    def cost(candidate: Candidate) -> tuple[int, int]:
        missing = max(prompt - candidate.resident, 0)
        return missing + candidate.queued + RUNNING_COST * candidate.running, _hash(key, candidate.engine)

    return [candidate.engine for candidate in sorted(candidates, key=cost)]


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
