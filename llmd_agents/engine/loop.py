"""Runs the core in real time: steps it, and lets as much wall time pass as the steps stand for."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from .clock import ModelClock
from .core import EngineCore, StepOutput
from .request import EngineRequest, RequestStats

_logger = logging.getLogger(__name__)

SHORTEST_SLEEP_S: Final = 0.001
"""Less than this is not slept, but owed until more has gathered."""

LONGEST_RUN_S: Final = 0.0002
"""Wall time after which other tasks get their turn, however much work there is."""


class Reply:
    """What a request has got so far.

    Attributes:
        ready: output tokens that its caller may see.
        stats: None until the last token is ready.
        dropped: the request was aborted or the engine stopped; no more will come.
    """

    def __init__(self) -> None:
        self.ready = 0
        self.stats: RequestStats | None = None
        self.dropped = False
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.stats is not None or self.dropped

    def wake(self) -> None:
        self._changed.set()

    async def change(self) -> None:
        """Waits until the reply has changed since the last call."""
        await self._changed.wait()
        self._changed.clear()


class EngineLoop:
    """Owns the core and its clock; everything happens in one event loop.

    Args:
        core: the engine.
        time_scale: modelled seconds per second of wall time.
        on_step: told what each step did, at its start.
        on_end: told of each request that ended, with its stats or None if it was dropped.
    """

    def __init__(
        self,
        core: EngineCore,
        *,
        time_scale: float,
        on_step: Callable[[StepOutput], None],
        on_end: Callable[[str, RequestStats | None], None],
    ) -> None:
        self.core = core
        self._clock = ModelClock(time.perf_counter(), time_scale=time_scale)
        self._on_step = on_step
        self._on_end = on_end
        self._replies: dict[str, Reply] = {}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="engine")
        self._task.add_done_callback(self._stopped)

    def stop(self) -> None:
        """Drops all requests and runs no further step; may be called twice."""
        if self._task is not None:
            self._task.cancel()
        for request_id in list(self._replies):
            # The core is left alone: it may be what has failed.
            self._drop(request_id)

    def submit(self, request: EngineRequest) -> Reply:
        """Queues a request that arrives now.

        Raises:
            RequestTooLarge: if it could never run.
        """
        wall = time.perf_counter()
        self.core.add(request, self._clock.now(wall))
        # Begun here, so that what passes until the loop wakes up is not taken for time in the queue.
        self._clock.start(wall)
        reply = self._replies[request.id] = Reply()
        self._work.set()
        return reply

    def abort(self, request_id: str) -> None:
        """Drops a request that has not ended; does nothing for any other."""
        if request_id in self._replies:
            self._drop(request_id)
            self.core.abort(request_id)

    def _drop(self, request_id: str) -> None:
        reply = self._replies.pop(request_id)
        reply.dropped = True
        reply.wake()
        self._on_end(request_id, None)

    async def _run(self) -> None:
        clock, core, wall = self._clock, self.core, time.perf_counter
        yielded = wall()
        while True:
            if not core.has_work:
                clock.rest(wall())
                self._work.clear()
                await self._work.wait()
                yielded = wall()
            output = core.step(clock.start(wall()))
            clock.advance(output.duration_s)
            self._on_step(output)
            now = wall()
            owed = clock.owed(now)
            if owed >= SHORTEST_SLEEP_S:
                await asyncio.sleep(owed)
                yielded = wall()
            self._deliver(output)
            if now - yielded >= LONGEST_RUN_S:
                await asyncio.sleep(0)
                yielded = wall()

    def _deliver(self, output: StepOutput) -> None:
        for request_id, count in output.tokens.items():
            # A request that was aborted meanwhile has no reply.
            if (reply := self._replies.get(request_id)) is not None:
                reply.ready += count
                reply.wake()
        for stats in output.finished:
            if (reply := self._replies.pop(stats.request_id, None)) is not None:
                reply.stats = stats
                self._on_end(stats.request_id, stats)

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("the engine has failed and serves no more requests", exc_info=error)
        self.stop()
