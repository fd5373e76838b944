"""A fork as its block sees it: which branches have started, and how they end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from .branch import Branch
from .frame import Frame, enter_frame, leave_frame
from .outcome import outcome_of

if TYPE_CHECKING:
    from types import TracebackType

    from llmd_agents.hints import ForkDeclared, Outcome

    from .frame import Entry
    from .join import Join, Race

R = TypeVar("R")


class NotWaitedFor(Exception):
    """A branch of a race need not begin: its fork has what it waits for."""


class Fork:
    """A declared fork, as seen inside its block.

    Attributes:
        id: stands for all the fork's branches as a parent of the step after the join.
        width: the number of branches declared.
        join: how many of them are waited for: all, the first that succeeds ("any"), or the first k.
        winners: indices of the branches whose results the last `map` returned, in the order in which they
            finished.
    """

    def __init__(self, parent: Branch, declared: ForkDeclared, join: Join) -> None:
        self.id = declared.fork
        self.width = declared.width
        self.join: Join = join
        self.winners: tuple[int, ...] = ()
        self._parent = parent
        self._parents = declared.parents
        self._started = 0
        self._open: dict[int, Branch] = {}
        self._joined = False
        self._kept: dict[int, Branch] | None = None
        self._lock = threading.RLock()

    def branch(self) -> BranchBlock:
        """Runs the block as the fork's next branch. `map` does this for each item.

        Raises:
            RuntimeError: if all declared branches have been started, or the fork's block was left.
        """
        with self._lock:
            self._check_not_joined()
            if self._started >= self.width:
                raise RuntimeError(f"the fork was declared with {self.width} branches and all have started")
            index = self._started
            self._started += 1
        return BranchBlock(self, index)

    def _check_not_joined(self) -> None:
        if self._joined:
            raise RuntimeError(f"fork {self.id} was joined: its block has been left")

    def _take(self, count: int) -> range:
        """Reserves the indices of the next branches."""
        with self._lock:
            left = self.width - self._started
            if count > left:
                started = f", {self._started} of which have started" if self._started else ""
                raise ValueError(
                    f"{count} items for a fork that was declared with {self.width} branches{started}"
                )
            self._started += count
            return range(self._started - count, self._started)

    def _begin(self, index: int, race: Race[Any] | None = None) -> Branch:
        branch = self._parent.child(self.id, index, self.width, self._parents)
        with self._lock:
            if race is not None and (race.decided or self._joined):
                raise NotWaitedFor
            self._check_not_joined()
            self._open[index] = branch
        return branch

    def _end(self, index: int, branch: Branch, error: type[BaseException] | None) -> None:
        with self._lock:
            self._open.pop(index, None)
            if self._kept is not None and error is None and not self._joined:
                self._kept[index] = branch
                return
        branch.end(outcome_of(error))

    def _end_all(self, indices: range, outcome: Outcome) -> None:
        """Ends the branches that still run: they are not waited for."""
        with self._lock:
            left = [self._open.pop(index) for index in list(self._open) if index in indices]
        for branch in left:
            branch.end(outcome)

    def _count(self, race: Race[R], index: int, branch: Branch, result: R) -> bool:
        """Takes note of a result, unless its branch was abandoned; returns whether that decides the race."""
        if branch.outcome == "abandoned" and self.join != "all":
            return race.withdrew()
        return race.succeeded(index, result)

    def _results(self, race: Race[R]) -> list[R]:
        """Returns the results of a `map`, or raises what stands in their way."""
        self.winners = tuple(index for index, _ in race.winners)
        race.raise_failures(self.id)
        winners = sorted(race.winners, key=_index) if self.join == "all" else race.winners
        return [result for _, result in winners]

    def keep_open(self) -> dict[int, Branch]:
        """Leaves branches open whose code returns; gives them, by index, to the caller to end."""
        self._kept = {}
        return self._kept

    def close(self, *, failed: bool) -> None:
        """Ends the branches that are still open as the block is left."""
        with self._lock:
            self._joined = True
        given_up: Outcome = "abandoned" if self.join == "all" and not failed else "cancelled"
        self._end_all(range(self.width), given_up)
        for branch in (self._kept or {}).values():
            branch.end(given_up)


class BranchBlock:
    """What runs as one branch of a fork: entering it begins the branch, leaving it ends the branch."""

    __slots__ = ("_branch", "_entry", "_fork", "_index", "_race")

    def __init__(self, fork: Fork, index: int, race: Race[Any] | None = None) -> None:
        self._fork = fork
        self._index = index
        self._race = race
        self._branch: Branch | None = None
        self._entry: Entry | None = None

    def __enter__(self) -> Branch:
        """Begins the branch.

        Raises:
            RuntimeError: if it has begun before, or the fork's block was left.
            NotWaitedFor: if the race is decided.
        """
        if self._branch is not None:
            raise RuntimeError(f"branch {self._branch.id} has begun already; each branch is one block")
        self._branch = branch = self._fork._begin(self._index, self._race)
        self._entry = enter_frame(Frame(branch))
        branch.begin()
        return branch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._branch is not None and self._entry is not None:
            leave_frame(self._entry)
            self._fork._end(self._index, self._branch, kind)


def _index(winner: tuple[int, object]) -> int:
    return winner[0]
