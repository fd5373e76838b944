"""Virtual time: an asyncio event loop whose clock jumps to the next timer as soon as nothing is left to do.

A coroutine that sleeps for ten minutes ends at once, ten virtual minutes later. Nothing outside the process
takes part: no sockets, no threads, so that the same coroutine takes the same course every time.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_RESOLUTION_S = 1e-9
"""Timers this close to one another are due together."""


class NothingLeftToWaitFor(RuntimeError):
    """Every task waits for something that no timer and no other task will bring about."""


class _Jump:
    """Stands where a loop has its selector: instead of waiting for sockets, it moves the clock."""

    def __init__(self, loop: "VirtualTimeLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeftToWaitFor(f"at {self._loop.time():.3f} s: {_waiting(self._loop)}")
        if timeout > 0:
            self._loop.jump()
        return []


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop that begins at time 0. What would run in a thread runs at once, and takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = _Jump(self)
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        return self._now

    def jump(self) -> None:
        """Moves the clock to the next timer; a cancelled one that still heads the queue does no harm."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self._now = max(self._now, scheduled[0].when())

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  (it is the future's to carry)
            future.set_exception(error)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none: nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nothing sleeps that would have to be woken."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in virtual time from 0 on; returns its result.

    Raises:
        NothingLeftToWaitFor: if it can never end.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)


def _waiting(loop: asyncio.AbstractEventLoop) -> str:
    names = sorted(task.get_name() for task in asyncio.all_tasks(loop))
    shown = ", ".join(names[:8]) + ("" if len(names) <= 8 else f" and {len(names) - 8} more")
    return f"nothing is ready and no timer is set; these tasks wait: {shown}"
