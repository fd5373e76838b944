"""How many of a fork's branches a join waits for, and which of them it got."""

from __future__ import annotations

from typing import Generic, Literal, TypeAlias, TypeVar

R = TypeVar("R")

Join: TypeAlias = Literal["all", "any"] | int
"""All of a fork's branches, the first that succeeds, or the first k."""


def check_join(join: object, width: int) -> None:
    """Raises ValueError unless a fork of this width can be joined so."""
    number = isinstance(join, int) and not isinstance(join, bool)
    if join not in ("all", "any") and not (number and 1 <= join <= width):  # type: ignore[operator]
        raise ValueError(f'join must be "all", "any" or a number from 1 to {width}, not {join!r}')


def check_limit(limit: int | None) -> None:
    """Raises ValueError unless so many branches may run at once."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")


class Race(Generic[R]):
    """The branches of one `map`: who has succeeded, who has failed, and whether more need to run.

    Attributes:
        winners: (index, result) of the branches that count, in the order in which they finished.
        failures: what branches raised while there were too few winners.
        won: whether there are enough winners.
        decided: whether there are enough winners, or can never be.
    """

    def __init__(self, entrants: int, join: Join) -> None:
        self._wanted = join if isinstance(join, int) else 1 if join == "any" else entrants
        self._entrants = entrants
        self._running = entrants
        self.winners: list[tuple[int, R]] = []
        self.failures: list[Exception] = []
        self.won = self.decided = entrants == 0

    def succeeded(self, index: int, result: R) -> bool:
        """Takes note of a result; returns whether that decides the race."""
        if not self.decided:
            self.winners.append((index, result))
        return self._ran()

    def failed(self, error: Exception | None = None) -> bool:
        """Takes note of a branch that raised or was cancelled; returns whether that decides the race."""
        if error is not None and not self.won:
            self.failures.append(error)
        return self._ran()

    def withdrew(self) -> bool:
        """Takes note of a branch that was abandoned, as if it had not run; returns as the others."""
        self._entrants -= 1
        return self._ran()

    def _ran(self) -> bool:
        self._running -= 1
        if self.decided:
            return False
        needed = min(self._wanted, self._entrants)
        self.won = len(self.winners) >= needed
        self.decided = self.won or len(self.winners) + self._running < needed
        return self.decided

    def raise_failures(self, fork: str) -> None:
        """Raises what the branches raised, if there are too few winners: one exception as it is."""
        if self.won or not self.failures:
            return
        if len(self.failures) == 1:
            raise self.failures[0]
        raise ExceptionGroup(f"{len(self.failures)} branches of fork {fork} failed", self.failures)
