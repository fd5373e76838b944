"""Tips: the ends of live branches, and what they wait for."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeAlias

BRANCHES_MAX = 20_000
AGENTS_PER_BRANCH_MAX = 64
EARLIER_MAX = 8

TipKey: TypeAlias = tuple[str, str | None]
"""A branch, and the agent whose context it is: agents that take turns on one branch each have their own."""


@dataclass(slots=True, eq=False)
class Tip:
    """The latest context of one agent on one branch.

    Attributes:
        path: its digests from the end to the start of the prompt, as they were counted in (`Contexts.use`).
        engine: where it was computed last.
        step: id of its latest step.
        under_way: its calls without an answer.
        idle_since: when its latest answer ended; None before, and while a call is under way.
        wait: what it is waiting for, as a kind of duration to learn, since `wait_since`.
        uses: counts its calls; a timer set for an earlier one is stale.
    """

    key: TipKey
    digest: bytes | None = None
    path: tuple[bytes, ...] = ()
    engine: str | None = None
    step: str | None = None
    under_way: int = 0
    idle_since: float | None = None
    wait: str | None = None
    wait_since: float = 0.0
    uses: int = 0
    earlier: list[tuple[bytes, ...]] = field(default_factory=list)
    """Paths of contexts that the tip left without extending them, and that may be met again."""


class Tips:
    """The tips of one program; past the limits the least recently used are given up."""

    def __init__(self) -> None:
        self._branches: OrderedDict[str, OrderedDict[str | None, Tip]] = OrderedDict()

    def at(self, key: TipKey) -> tuple[Tip, list[Tip]]:
        """Returns the tip, new if need be, and those that were given up for it."""
        branch, agent = key
        agents = self._branches.setdefault(branch, OrderedDict())
        self._branches.move_to_end(branch)
        if agent in agents:
            agents.move_to_end(agent)
            return agents[agent], []
        agents[agent] = Tip(key)
        dropped = [agents.popitem(last=False)[1]] if len(agents) > AGENTS_PER_BRANCH_MAX else []
        if len(self._branches) > BRANCHES_MAX:
            dropped += self._branches.popitem(last=False)[1].values()
        return agents[agent], dropped

    def get(self, key: TipKey) -> Tip | None:
        agents = self._branches.get(key[0])
        return agents.get(key[1]) if agents is not None else None

    def of_branch(self, branch: str) -> list[Tip]:
        """Returns a branch's tips, the most recently used last."""
        return list(self._branches.get(branch, {}).values())

    def end_branch(self, branch: str) -> list[Tip]:
        """Removes a branch; returns what were its tips."""
        return list(self._branches.pop(branch, {}).values())

    def end(self) -> list[Tip]:
        """Removes everything; returns it."""
        tips = [tip for agents in self._branches.values() for tip in agents.values()]
        self._branches.clear()
        return tips
