"""Runs the core in real time: steps it, and lets as much wall time pass as the steps stand for."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from llmd_agents.hints import Directive, DirectiveOutcome, EngineKv

from .clock import ModelClock
from .core import EngineCore, StepOutput
from .export import Export, PeerRead
from .request import EngineRequest, RequestStats

_T = TypeVar("_T")

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
        on_step: told what each step did, at its start; also of a step that took no time, and of changes of
            residency between steps.
        on_end: told of each request that ended, with its stats or None if it was dropped.
        wall: a monotonic clock, in seconds; in a loop of virtual time, that loop's own.
    """

    def __init__(
        self,
        core: EngineCore,
        *,
        time_scale: float,
        on_step: Callable[[StepOutput], None],
        on_end: Callable[[str, RequestStats | None], None],
        wall: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.core = core
        self._wall = wall
        self._clock = ModelClock(wall(), time_scale=time_scale)
        self._waits = False
        self._on_step = on_step
        self._on_end = on_end
        self._replies: dict[str, Reply] = {}
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def now(self) -> float:
        """Returns the modelled time, in seconds."""
        return self._clock.now(self._wall())

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
        wall = self._wall()
        self.core.add(request, self._clock.now(wall))
        # Begun here, so that what passes until the loop wakes up is not taken for time in the queue.
        self._clock.start(wall)
        self._wake(wall)
        reply = self._replies[request.id] = Reply()
        return reply

    def direct(self, action_id: str, directive: Directive) -> DirectiveOutcome | PeerRead:
        """Carries out a directive that arrives now (`EngineCore.direct`)."""
        return self._told(self.core.direct(action_id, directive, self.now()))

    def receive(self, read: PeerRead, export: Export | None) -> DirectiveOutcome:
        """Takes a peer's answer that arrives now (`EngineCore.receive`)."""
        return self._told(self.core.receive(read, export, self.now()))

    def export(self, digest: bytes, scope: str | None) -> Export | None:
        return self.core.export(digest, scope, self.now())

    def kv(self, epoch: str) -> EngineKv:
        return self.core.kv(epoch, self.now())

    def _told(self, answer: _T) -> _T:
        if changes := self.core.take_residency():
            self._on_step(StepOutput(0.0, {}, (), changes))
        if self.core.has_work or self.core.next_event() is not None:
            wall = self._wall()
            self._clock.start(wall)
            self._wake(wall)
        return answer

    def _wake(self, wall: float) -> None:
        """Something has come that may be work."""
        if self._waits:
            self._waits = False
            self._clock.cut(wall)
        self._work.set()

    def abort(self, request_id: str) -> None:
        """Drops a request that has not ended; does nothing for any other."""
        if request_id in self._replies:
            self._drop(request_id)
            self.core.abort(request_id)
            self._wake(self._wall())

    def reset(self) -> bool:
        """Forgets what is cached (`EngineCore.reset_prefix_cache`)."""
        done = self.core.reset_prefix_cache()
        self._wake(self._wall())
        return done

    def _drop(self, request_id: str) -> None:
        reply = self._replies.pop(request_id)
        reply.dropped = True
        reply.wake()
        self._on_end(request_id, None)

    async def _run(self) -> None:
        clock, core, wall = self._clock, self.core, self._wall
        yielded = wall()
        while True:
            if not core.has_work:
                await self._idle()
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

    async def _idle(self) -> None:
        """Returns when there may be work: something has come, or a transfer ends."""
        clock, wall = self._clock, self._wall
        self._work.clear()
        event = self.core.next_event()
        if event is None:
            clock.rest(wall())
            await self._work.wait()
            return
        clock.start(wall())
        clock.wait_until(event)
        self._waits = True
        try:
            async with asyncio.timeout(clock.owed(wall())):
                await self._work.wait()
        except TimeoutError:
            self._waits = False

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
