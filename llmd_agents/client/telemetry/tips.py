"""Which steps a parent's name stands for: a step's for itself, a fork's for its branches' last steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmd_agents.hints.frontier import advance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..history import ForkRecord, StepRecord

FORKS_MAX = 1024
"""Most forks that are remembered; the oldest have long been joined."""


class Tips:
    """Follows a program's forks, and the steps on their branches, in the order in which they begin."""

    def __init__(self) -> None:
        self.forks: dict[str, ForkRecord] = {}
        self._tips: dict[str, dict[str, tuple[str, ...]]] = {}

    def add_fork(self, fork: ForkRecord) -> None:
        self.forks[fork.fork] = fork
        self._tips[fork.fork] = {}
        outer, _, _ = fork.branch.rpartition(".")  # a branch is named by its fork and its index
        if outer in self._tips:
            self._advance(outer, fork.branch, fork.fork, fork.parents)
        if len(self.forks) > FORKS_MAX:
            oldest = next(iter(self.forks))
            del self.forks[oldest], self._tips[oldest]

    def add_step(self, step: StepRecord) -> None:
        if step.fork is not None and step.fork.id in self._tips:
            self._advance(step.fork.id, step.branch, step.step, step.parents)

    def _advance(self, fork: str, branch: str, done: str, parents: tuple[str, ...]) -> None:
        tips = self._tips[fork]
        tips[branch] = advance(tips.get(branch, ()), done, parents)

    def steps_of(self, parents: Iterable[str]) -> tuple[str, ...]:
        """Returns the steps that parents stand for, each once; for a fork without steps, its own parents."""
        found: dict[str, None] = {}
        waiting = list(reversed(list(parents)))
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in self.forks:
                found[name] = None
            elif name not in seen:
                seen.add(name)
                ends = [tip for tips in self._tips[name].values() for tip in tips]
                waiting += reversed(ends or self.forks[name].parents)
        return tuple(found)
