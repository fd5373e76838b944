"""Which waiting request is admitted next: a value passed to the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .request import Progress


class DispatchOrder(Protocol):
    """Picks the next request to admit; if it does not fit the cache, none is admitted in this step.

    Requests that wait for a transfer are not offered until it has ended. Preempted requests are not offered:
    they go first, the latest preempted at the head, as in vLLM.
    """

    def __call__(
        self,
        waiting: Sequence[Progress],
        running: Sequence[Progress],
        now: float,
        cached_tokens: Callable[[Progress], int],
    ) -> int | None:
        """Returns an index into `waiting`; None if nobody is to be admitted in this step.

        Args:
            waiting: at least one request, in order of arrival.
            running: those that have been admitted; while there are none, somebody must be.
            now: modelled time, in seconds.
            cached_tokens: how much of a request's prompt is cached now, in whatever tier, in tokens.
        """
        ...


def first_come_first_served(
    waiting: Sequence[Progress],
    running: Sequence[Progress],
    now: float,
    cached_tokens: Callable[[Progress], int],
) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class CachedFirst:
    """Admits the request with the fewest prompt tokens to compute, ties by arrival.

    While a fork's branches decode, what would hold them up for long waits: their join needs the slowest of
    them, and every step that computes a prompt delays them all. (Which they are, hints say; without any it
    changes nothing.)

    Who has waited longer than `aging_s` goes before all others, the oldest first: once the bound has passed,
    nobody who arrived later is admitted before, unless that request itself waits for a transfer.

    Attributes:
        aging_s: modelled seconds.
        short: so many prompt tokens to compute do not hold up branches for long.
    """

    aging_s: float = 10.0
    short: int = 2048

    def __post_init__(self) -> None:
        if not self.aging_s >= 0:
            raise ValueError(f"aging_s must be 0 or more, not {self.aging_s}")

    def __call__(
        self,
        waiting: Sequence[Progress],
        running: Sequence[Progress],
        now: float,
        cached_tokens: Callable[[Progress], int],
    ) -> int | None:
        if now - waiting[0].arrival_s > self.aging_s:
            return 0
        spare_branches = any(
            progress.request.of_branch and progress.known > progress.prompt_tokens for progress in running
        )
        best, least = None, None
        for index, progress in enumerate(waiting):
            uncached = progress.prompt_tokens - cached_tokens(progress)
            if spare_branches and uncached > self.short and not progress.request.of_branch:
                continue
            if least is None or uncached < least:
                best, least = index, uncached
        return best
