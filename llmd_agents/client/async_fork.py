"""Forks whose branches run as tasks."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from .fork import BranchBlock, Fork
from .join import Race, check_limit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

T = TypeVar("T")
R = TypeVar("R")


class AsyncFork(Fork):
    """A fork whose branches run as tasks."""

    async def map(
        self, function: Callable[[T], Awaitable[R]], items: Iterable[T], *, limit: int | None = None
    ) -> list[R]:
        """Awaits `function` on each item, each call as a branch.

        Once there are as many successes as the fork waits for, or there can never be, the other branches are
        cancelled. They end at once for the servers.

        Args:
            limit: how many run at once; all by default.

        Returns:
            The results in the items' order; with `join="any"` or `join=k` those of the winners, in the order
            in which they finished.

        Raises:
            ValueError: if there are more items than branches left, or `limit` is less than 1.
            Exception: what a branch raised, if too few succeed; an ExceptionGroup where several did.
        """
        check_limit(limit)
        work = list(items)
        indices = self._take(len(work))
        race: Race[R] = Race(len(work), self.join)
        gate = asyncio.Semaphore(limit) if limit is not None else nullcontext()
        tasks: list[asyncio.Task[None]] = []
        stopped: list[asyncio.CancelledError] = []

        async def compete(index: int, item: T) -> None:
            clear = False
            try:
                async with gate:
                    if race.decided:
                        return
                    with BranchBlock(self, index) as branch:
                        result = await function(item)
            except asyncio.CancelledError as error:
                if not race.decided:
                    stopped.append(error)
                clear = race.failed()
                raise
            except Exception as error:  # noqa: BLE001  (raised again once all have ended)
                clear = race.failed(error)
            else:
                clear = self._count(race, index, branch, result)
            finally:
                if clear:
                    self._give_up(indices, tasks)

        try:
            async with asyncio.TaskGroup() as group:
                for index, item in zip(indices, work, strict=True):
                    tasks.append(group.create_task(compete(index, item)))
        except BaseExceptionGroup as several:
            if len(several.exceptions) > 1:
                raise
            raise several.exceptions[0] from None
        results = self._results(race)
        if not race.won:
            # Nothing failed, yet too few succeeded: some were cancelled, perhaps before they began.
            raise stopped[0] if stopped else asyncio.CancelledError
        return results

    async def call(self, *functions: Callable[[], Awaitable[R]]) -> list[R]:
        """Awaits each function as a branch; otherwise as `map`."""
        return await self.map(lambda function: function(), functions)

    def _give_up(self, indices: range, tasks: list[asyncio.Task[None]]) -> None:
        self._end_all(indices, "cancelled")
        for task in tasks:
            # Those that are being cancelled already may be cleaning up, and are left to it.
            if task is not asyncio.current_task() and not task.cancelling():
                task.cancel()
