"""Forks whose branches run in threads."""

from __future__ import annotations

import inspect
from concurrent.futures import as_completed
from typing import TYPE_CHECKING, TypeVar

from .executor import ContextExecutor
from .fork import BranchBlock, Fork, NotWaitedFor
from .join import Race, check_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 64


def refuse_coroutine(result: object, advice: str) -> None:
    """Raises TypeError where a plain function gave a coroutine: nobody here awaits it."""
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError(f"a coroutine was returned: {advice}")


class SyncFork(Fork):
    """A fork whose branches run in threads."""

    def map(self, function: Callable[[T], R], items: Iterable[T], *, limit: int | None = None) -> list[R]:
        """Calls `function` on each item, each call as a branch.

        A thread cannot be stopped. When the fork waits for fewer than all, the branches that lose are not
        waited for: they end at once for the servers, and what they still return or raise is ignored.

        Args:
            limit: how many run at once, 64 by default.

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
        threads = ContextExecutor(
            max(1, min(len(work), limit or MAX_THREADS)), thread_name_prefix=f"fork {self.id}"
        )
        patient = False
        try:
            futures = [
                threads.submit(self._compete, race, indices, index, function, item)
                for index, item in zip(indices, work, strict=True)
            ]
            for future in as_completed(futures):
                future.result()  # what is no Exception
                if race.decided and self.join != "all":
                    break
            patient = self.join == "all"
        finally:
            # An interrupt does not wait for model calls either.
            threads.shutdown(wait=patient, cancel_futures=True)
            self._end_all(indices, "cancelled")
        return self._results(race)

    def call(self, *functions: Callable[[], R]) -> list[R]:
        """Calls each function as a branch; otherwise as `map`."""
        return self.map(lambda function: function(), functions)

    def _compete(
        self, race: Race[R], indices: range, index: int, function: Callable[[T], R], item: T
    ) -> None:
        """Runs one branch. A thread that is done decides for itself, so that the next one need not begin."""
        try:
            with BranchBlock(self, index, race if self.join != "all" else None) as branch:
                result = function(item)
                refuse_coroutine(result, "`async with run.fork(…)` runs coroutine functions")
        except NotWaitedFor:
            return
        except Exception as error:  # noqa: BLE001  (raised by `map`)
            with self._lock:
                clear = race.failed(error)
        else:
            with self._lock:
                clear = self._count(race, index, branch, result)
        if clear and self.join != "all":
            self._end_all(indices, "cancelled")
