"""The time that events state and that durations are measured in; a simulation's own while it runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_clock: Callable[[], float] = time.time
_monotonic: Callable[[], float] = time.monotonic


def event_time() -> float:
    """Returns Unix seconds within what an event may state: the wall's clock may have been set to anything."""
    return min(max(_clock(), 0.0), 1e11)


def monotonic() -> float:
    """Returns seconds since some moment, by a clock that is never set."""
    return _monotonic()


@contextmanager
def use_clock(clock: Callable[[], float]) -> Iterator[None]:
    """Lets this process tell another time while the block runs, to its events and in its records."""
    global _clock, _monotonic
    before = _clock, _monotonic
    _clock = _monotonic = clock
    try:
        yield
    finally:
        _clock, _monotonic = before
