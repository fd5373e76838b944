"""Carries out what the runtime decides besides placement, behind the model calls' back."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from functools import partial

from llmd_agents.hints import DirectiveOutcome, EngineKv, Prefetch, Warm
from llmd_agents.runtime import COPY_HEARD_S, Issued, Mode, Runtime

from . import quiet
from .config import EngineConfig
from .delivery import Delivery
from .metrics import RouterMetrics
from .priorities import Priorities
from .upstream import Sessions
from .warm_ups import Prepare, WarmUps

UNDELIVERED = "undelivered"

COALESCE_SECONDS = 0.002
"""How long directives are gathered, so that what belongs together travels together."""

WAKE_MAX_SECONDS = 60.0
"""Longest sleep of the timer: wall clocks may be set."""

FAULT_PAUSE_SECONDS = 1.0

_FAULT = "advice to engines failed; calls go on"


class Actuators:
    """Delivers directives, sends warm-ups and wakes the runtime when it has asked to be woken.

    Everything happens in the router's event loop, in tasks that no model call waits for, but for `heard`.

    Args:
        answer_timeout_s: how long an engine may take for a warm-up.
        connect_timeout_s: how long it may take to connect for one.
    """

    def __init__(
        self,
        runtime: Runtime,
        engines: Mapping[str, EngineConfig],
        metrics: RouterMetrics,
        priorities: Priorities,
        *,
        answer_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self._runtime = runtime
        self._engines = engines
        self._metrics = metrics
        self._sessions = Sessions(connect_timeout_s=connect_timeout_s)
        self._deliveries = {name: self._delivery(name, engine) for name, engine in engines.items()}
        self._priorities = priorities
        self._warm_ups = WarmUps(
            engines, priorities, self._sessions, self._answered, timeout_s=answer_timeout_s
        )
        self._awaited: dict[str, asyncio.Event] = {}
        self._gathering: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._tasks = [asyncio.create_task(delivery.run()) for delivery in self._deliveries.values()]

    def _delivery(self, name: str, engine: EngineConfig) -> Delivery:
        state = self._runtime.engines[name]
        return Delivery(
            name,
            engine,
            self._sessions.pooled,
            is_up=lambda: state.up,
            answered=self._answered,
            learned=partial(self._learned, name),
            dropped=self._metrics.directives_dropped.labels(name).inc,
        )

    async def close(self) -> None:
        self._closed = True
        for handle in (self._gathering, self._timer):
            if handle is not None:
                handle.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._warm_ups.close()
        await self._sessions.close()

    # --- what is told

    def changed(self) -> None:
        """To be called after every input to the runtime: what it has decided is carried out soon."""
        if self._gathering is None and not self._closed:
            self._gathering = asyncio.get_running_loop().call_later(COALESCE_SECONDS, self._act)

    @contextlib.contextmanager
    def under_way(self, call_id: int, prepare: Prepare) -> Iterator[None]:
        """Keeps a call at hand for warm-ups while it is under way."""
        self._warm_ups.hold(call_id, prepare)
        try:
            yield
        finally:
            if self._gathering is not None:
                # An answer that came whole has only now begun, and what follows from that may need the call.
                self._gathering.cancel()
                self._act()
            self._warm_ups.let_go(call_id)

    async def heard(self, issued_id: str) -> None:
        """Waits, at most `COPY_HEARD_S`, until an engine has answered a directive."""
        answered = self._awaited[issued_id] = asyncio.Event()
        if self._gathering is not None:
            self._gathering.cancel()
        self._act()
        try:
            async with asyncio.timeout(COPY_HEARD_S):
                await answered.wait()
        except TimeoutError:
            pass  # the call goes on, and its engine may compute what it could have copied
        finally:
            self._awaited.pop(issued_id, None)

    def engine_is_back(self, name: str) -> None:
        """The engine may be another one than before, or what was known of it was lost."""
        self._priorities.forget(name)
        self._deliveries[name].look_again()

    def warming(self, name: str) -> int:
        """Returns how many warm-ups an engine is computing."""
        return self._warm_ups.under_way(name)

    def engine_epoch(self, name: str, epoch: str) -> None:
        self._deliveries[name].seen_epoch(epoch)

    def set_mode(self, mode: Mode) -> None:
        """Changes what hints may do; leaving `act` gives up whatever has not been carried out."""
        self._runtime.set_mode(mode, time.time())
        if mode is not Mode.ACT:
            for delivery in self._deliveries.values():
                delivery.cancel_queued()
            self._warm_ups.cancel()
        self.changed()

    # --- inside

    def _act(self) -> None:
        self._gathering = None
        # Should the runtime fail, it is asked again before long.
        wake_at: float | None = time.time() + FAULT_PAUSE_SECONDS
        with quiet.faults(_FAULT):
            for issued in self._runtime.take_directives():
                self._put(issued)
            wake_at = self._runtime.wake_at()
        self._wake(wake_at)

    def _put(self, issued: Issued) -> None:
        directive = issued.directive
        if isinstance(directive, Warm) and issued.call is not None:
            self._warm_ups.put(issued)
            return
        if isinstance(directive, Prefetch) and directive.peer is not None:
            address = self._engines[directive.peer].url
            issued = dataclasses.replace(issued, directive=directive.model_copy(update={"peer": address}))
        self._deliveries[issued.engine].put(issued)

    def _wake(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None:
            delay = min(max(at - time.time(), COALESCE_SECONDS), WAKE_MAX_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        ticked = False
        with quiet.faults(_FAULT):
            self._runtime.tick(time.time())
            ticked = True
        if ticked:
            self._act()
        else:
            self._wake(time.time() + FAULT_PAUSE_SECONDS)

    def _learned(self, name: str, kv: EngineKv | None) -> None:
        with quiet.faults(_FAULT):
            self._runtime.engine_kv(name, kv, time.time())
        self.changed()

    def _answered(self, issued: Issued, outcome: DirectiveOutcome | None) -> None:
        result = UNDELIVERED if outcome is None else outcome.outcome
        directive = issued.directive
        self._metrics.directives.labels(issued.engine, directive.type, result).inc()
        if isinstance(directive, Warm) and issued.call is not None:
            self._metrics.warm_ups.labels(issued.engine, result).inc()
        if (waiting := self._awaited.get(issued.id)) is not None:
            waiting.set()
        with quiet.faults(_FAULT):
            self._runtime.directive_answered(issued.id, outcome, time.time())
        self.changed()
