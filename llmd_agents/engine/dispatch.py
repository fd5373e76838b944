"""Which waiting request is admitted next: a value passed to the engine."""

from collections.abc import Callable, Sequence
from typing import Protocol

from .request import Progress


class DispatchOrder(Protocol):
    """Picks the next request to admit; if it does not fit the cache, none is admitted in this step.

    Preempted requests are not offered: they go first, the latest preempted at the head, as in vLLM.
    """

    def __call__(
        self, waiting: Sequence[Progress], now: float, cached_tokens: Callable[[Progress], int]
    ) -> int:
        """Returns an index into `waiting`.

        Args:
            waiting: at least one request, in order of arrival.
            now: modelled time, in seconds.
            cached_tokens: how much of a request's prompt is cached now, in tokens.
        """
        ...


def first_come_first_served(
    waiting: Sequence[Progress], now: float, cached_tokens: Callable[[Progress], int]
) -> int:
    return 0
