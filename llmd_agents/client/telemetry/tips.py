"""Which steps a parent's name stands for: a step's for itself, a fork's for its branches' last steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmd_agents.hints.frontier import advance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..history import ForkRecord, StepRecord


class Tips:
    """Follows a program's steps and forks in the order in which they begin."""

    def __init__(self) -> None:
        self._tips: dict[str, tuple[str, ...]] = {}
        self._branches_of: dict[str, list[str]] = {}
        self._parents_of: dict[str, tuple[str, ...]] = {}
        self._seen: set[str] = set()

    def add_fork(self, fork: ForkRecord) -> None:
        self._branches_of.setdefault(fork.fork, [])
        self._parents_of[fork.fork] = fork.parents
        self._tips[fork.branch] = advance(self._tips.get(fork.branch, ()), fork.fork, fork.parents)

    def add_step(self, step: StepRecord) -> None:
        if step.fork is not None and step.branch not in self._seen:
            self._seen.add(step.branch)
            self._branches_of.setdefault(step.fork.id, []).append(step.branch)
        self._tips[step.branch] = advance(self._tips.get(step.branch, ()), step.step, step.parents)

    def steps_of(self, parents: Iterable[str]) -> tuple[str, ...]:
        """Returns the steps that parents stand for, each once; for a fork without steps, its own parents."""
        found: dict[str, None] = {}
        waiting = list(reversed(list(parents)))
        forks: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in self._branches_of:
                found[name] = None
            elif name not in forks:
                forks.add(name)
                ends = [tip for branch in self._branches_of[name] for tip in self._tips.get(branch, ())]
                waiting += reversed(ends or self._parents_of.get(name, ()))
        return tuple(found)

    def is_fork(self, name: str) -> bool:
        return name in self._branches_of
