"""fork and join: n branches from one context, as a block."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from llmd_agents.hints import BranchEnded, ForkDeclared, ForkPosition, Joined
from llmd_agents.hints.limits import PARENTS_MAX

from .branch import Branch
from .clock import event_time
from .frame import Frame, frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from types import TracebackType

    from llmd_agents.hints import Outcome

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 64


class Fork:
    """A declared fork, as seen inside its block.

    Attributes:
        id: stands for all the fork's branches as a parent of the step after the join.
        width: the number of branches declared.
    """

    def __init__(self, parent: Branch, fork_id: str, width: int, parents: tuple[str, ...]) -> None:
        self.id = fork_id
        self.width = width
        self._parent = parent
        self._parents = parents
        self._indices = itertools.count()

    @contextmanager
    def branch(self) -> Iterator[Branch]:
        """Runs the block as the fork's next branch. `map` does this for each item.

        Raises:
            RuntimeError: if all declared branches have been started.
        """
        index = next(self._indices)
        if index >= self.width:
            raise RuntimeError(f"the fork was declared with {self.width} branches and all have started")
        position = ForkPosition(id=self.id, index=index, width=self.width)
        run = self._parent.run
        branch = Branch(run, f"{self.id}.{index}", parents=self._parents, fork=position)
        outcome: Outcome = "error"
        try:
            with frame(Frame(branch)):
                yield branch
            outcome = "ok"
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            run.outbox.put(BranchEnded(program=run.id, at=event_time(), branch=branch.id, outcome=outcome))

    def _check_room(self, count: int) -> None:
        if count > self.width:
            raise ValueError(f"{count} items for a fork that was declared with {self.width} branches")


class SyncFork(Fork):
    """A fork whose branches run in threads."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Calls `function` on each item, each call as a branch; returns the results in the items' order.

        Raises:
            ValueError: if there are more items than declared branches.
            Exception: what a branch raised; an ExceptionGroup where several did.
        """
        work = list(items)
        self._check_room(len(work))

        def run_branch(item: T) -> R:
            with self.branch():
                return function(item)

        if not work:
            return []
        with ThreadPoolExecutor(min(len(work), MAX_THREADS), thread_name_prefix=self.id) as threads:
            futures = [threads.submit(contextvars.copy_context().run, run_branch, item) for item in work]
        errors = [error for future in futures if isinstance(error := future.exception(), Exception)]
        _raise(errors, f"fork {self.id}")
        return [future.result() for future in futures]


class AsyncFork(Fork):
    """A fork whose branches run as tasks."""

    async def map(self, function: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
        """Awaits `function` on each item, each call as a branch; returns the results in the items' order.

        The first failure cancels the other branches.

        Raises:
            ValueError: if there are more items than declared branches.
            Exception: what a branch raised; an ExceptionGroup where several did.
        """
        work = list(items)
        self._check_room(len(work))

        async def run_branch(item: T) -> R:
            with self.branch():
                return await function(item)

        try:
            async with asyncio.TaskGroup() as tasks:
                results = [tasks.create_task(run_branch(item)) for item in work]
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        return [task.result() for task in results]


class ForkBlock:
    """What `run.fork` returns: enter it with `with` for threads, with `async with` for tasks."""

    def __init__(self, parent: Branch, fork_id: str, width: int, name: str | None) -> None:
        # Building the event checks width and name before anything has begun.
        self._declared = ForkDeclared(
            program=parent.run.id,
            at=event_time(),
            branch=parent.id,
            fork=fork_id,
            width=width,
            name=name,
            parents=parent.frontier[-PARENTS_MAX:],
        )
        self._parent = parent

    def _open(self, kind: type[Any]) -> Any:
        self._parent.run.outbox.put(self._declared)
        declared = self._declared
        return kind(self._parent, declared.fork, declared.width, declared.parents)

    def _join(self) -> None:
        declared = self._declared
        self._parent.advance(declared.fork, declared.parents)
        self._parent.run.outbox.put(
            Joined(program=declared.program, at=event_time(), branch=declared.branch, fork=declared.fork)
        )

    def __enter__(self) -> SyncFork:
        fork: SyncFork = self._open(SyncFork)
        return fork

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._join()

    async def __aenter__(self) -> AsyncFork:
        fork: AsyncFork = self._open(AsyncFork)
        return fork

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._join()


def _raise(errors: list[Exception], what: str) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} branches of {what} failed", errors)
