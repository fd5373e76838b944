"""Loops: steps that repeat on one branch."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from llmd_agents.hints import LoopPosition
from llmd_agents.hints.limits import ITERATION_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .branch import Branch


class Loop:
    """What `run.loop` returns: iterate over it. Each time that is done is a loop of its own."""

    def __init__(self, branch: Callable[[], Branch], new_id: Callable[[], str], limit: int | None) -> None:
        self.limit = LoopPosition(id="l", iteration=0, limit=limit).limit  # refuses one outside the contract
        self._branch = branch
        self._new_id = new_id

    def __iter__(self) -> Iterator[int]:
        return _Turns(self._branch(), self._new_id(), self.limit)


class _Turns:
    """One loop as it runs. It lives as long as the `for` statement that it belongs to.

    A `for` statement holds the only reference, and drops it when it is left in whatever way: at its end, by
    `break`, by `return` or by an exception. So what is gone is over, and nothing needs to be undone.
    """

    def __init__(self, branch: Branch, loop_id: str, limit: int | None) -> None:
        self.branch = branch
        self.position: LoopPosition | None = None
        self._id = loop_id
        self._limit = limit
        self._next = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        outer = []
        for turns in _open_turns():
            if turns is self:
                break  # loops that began within this one's last turn are over
            outer.append(weakref.ref(turns))
        if self._limit is not None and self._next >= self._limit:
            self.position = None
            _loops.set(tuple(outer))
            raise StopIteration
        iteration = self._next
        self._next += 1
        self.position = LoopPosition(id=self._id, iteration=min(iteration, ITERATION_MAX), limit=self._limit)
        _loops.set((*outer, weakref.ref(self)))
        return iteration


_loops: ContextVar[tuple[weakref.ref[_Turns], ...]] = ContextVar("llmd_agents_loops", default=())


def _open_turns() -> list[_Turns]:
    return [turns for ref in _loops.get() if (turns := ref()) is not None and turns.position is not None]


def loop_positions(branch: Branch) -> list[LoopPosition]:
    """Returns where the calling code is in a branch's loops, the innermost last."""
    if not _loops.get():
        return []
    return [
        turns.position for turns in _open_turns() if turns.branch is branch and turns.position is not None
    ]
