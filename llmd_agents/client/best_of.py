"""Best of n: several attempts from one context, of which the best is kept."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Generic, SupportsFloat, TypeVar

from .sync_fork import refuse_coroutine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .branch import Branch
    from .run import Run

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Best(Generic[T]):
    """The best of several attempts.

    Attributes:
        result: what the attempt returned.
        score: what it was worth.
        index: which attempt it was; the first is 0.
        scores: of all attempts; None where one failed.
        errors: what attempts, or the scoring of them, raised.
    """

    result: T
    score: float
    index: int
    scores: tuple[float | None, ...]
    errors: tuple[Exception, ...]


class _Attempts(Generic[T]):
    """What came of each attempt."""

    def __init__(self, run: Run, count: int) -> None:
        self._run = run
        self._scores: list[float | None] = [None] * count
        self._results: dict[int, T] = {}
        self._errors: list[Exception] = []

    def scored(self, index: int, result: T, score: object) -> None:
        # Numbers of other packages (numpy's, Decimal) are numbers too.
        if isinstance(score, bool) or not isinstance(score, SupportsFloat) or isnan(worth := float(score)):
            raise TypeError(f"score must return a number, not {score!r:.80}")
        self._results[index], self._scores[index] = result, worth

    def failed(self, error: Exception) -> None:
        self._errors.append(error)
        self._run.here().end("error")

    def best(self, branches: dict[int, Branch]) -> Best[T]:
        """Chooses the best, the first of equals; the other branches are given up as the fork's block ends."""
        if not self._results:
            if len(self._errors) == 1:
                raise self._errors[0]
            raise ExceptionGroup(f"all {len(self._errors)} attempts failed", self._errors)
        scores = {index: score for index, score in enumerate(self._scores) if score is not None}
        index = max(scores, key=lambda one: scores[one])
        branches[index].end("ok")
        return Best(self._results[index], scores[index], index, tuple(self._scores), tuple(self._errors))


def best_in_threads(
    run: Run,
    count: int,
    attempt: Callable[[int], T],
    score: Callable[[T], float],
    name: str | None,
    limit: int | None,
) -> Best[T]:
    attempts: _Attempts[T] = _Attempts(run, count)

    def make(index: int) -> None:
        try:
            result = attempt(index)
            refuse_coroutine(result, "declare `attempt` with `async def`")
            with run.label(kind="evaluate"):
                worth = score(result)
                refuse_coroutine(worth, "a coroutine function scores what coroutine functions attempt")
                attempts.scored(index, result, worth)
        except Exception as error:  # noqa: BLE001  (raised by `best` if all fail)
            attempts.failed(error)

    with run.fork(count, name=name) as fork:
        branches = fork.keep_open()
        fork.map(make, range(count), limit=limit)
        return attempts.best(branches)


async def best_in_tasks(
    run: Run,
    count: int,
    attempt: Callable[[int], Awaitable[T]],
    score: Callable[[T], float | Awaitable[float]],
    name: str | None,
    limit: int | None,
) -> Best[T]:
    attempts: _Attempts[T] = _Attempts(run, count)

    async def make(index: int) -> None:
        try:
            result = await attempt(index)
            with run.label(kind="evaluate"):
                worth = score(result)
                attempts.scored(index, result, await worth if inspect.isawaitable(worth) else worth)
        except Exception as error:  # noqa: BLE001  (as above)
            attempts.failed(error)

    async with run.fork(count, name=name) as fork:
        branches = fork.keep_open()
        await fork.map(make, range(count), limit=limit)
        return attempts.best(branches)


def is_async(function: Callable[..., object]) -> bool:
    """Returns whether this is a coroutine function, or an object whose call is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  (it is the method itself that is asked for)
    )
