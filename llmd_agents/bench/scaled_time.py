"""Scaled time: an asyncio event loop with real sockets, and a clock so many times as fast as the wall's."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class _Selector(selectors.DefaultSelector):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._scale)


class ScaledTimeLoop(asyncio.SelectorEventLoop):
    """What sleeps for ten seconds in it sleeps for `10 / scale` on the wall. Timeouts shrink alike."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        super().__init__(_Selector(scale))

    def time(self) -> float:
        return super().time() * self._scale


def scaled_time(scale: float) -> Callable[[], Any]:
    """Returns a factory of such loops, for `asyncio.Runner`."""
    return lambda: ScaledTimeLoop(scale)
