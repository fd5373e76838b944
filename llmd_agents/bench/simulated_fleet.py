"""A fleet in virtual time: the runtime with embedded engines around it, as the router is with real ones.

It does what the router does, without HTTP. What crosses a network takes `NETWORK_S` each way, and nothing
else takes any time but the engines' modelled work.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson

from llmd_agents.engine.completion import check_completion
from llmd_agents.engine.request_body import RefusedRequest
from llmd_agents.engine.script import SCRIPT_HEADER, packaged_scripts
from llmd_agents.hints import HINTS_HEADER, UnreadableContext, chain
from llmd_agents.runtime import COPY_HEARD_S, DEFAULT_TENANT, Arrival, Mode, Runtime, Usage
from llmd_agents.runtime.reading import ack_header, read_hints

from .simulated_engine import SimulatedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llmd_agents.engine import EngineCore, RequestStats
    from llmd_agents.engine.completion import Completion
    from llmd_agents.hints import DirectiveOutcome, Event, ResidencyBatch
    from llmd_agents.runtime import Call, Issued

NETWORK_S: Final = 1e-3
"""One way between client and router, router and engine, engine and engine."""


class SimulatedFleet:
    """One runtime and its engines; made inside the event loop that it runs in.

    Args:
        runtime: decides; its engines' names are those of `cores`.
        cores: the engines, by name.

    Attributes:
        time: what the runtime and the engines take for the time.
        answers: every directive that was answered, and how.
    """

    def __init__(self, runtime: Runtime, cores: Mapping[str, EngineCore]) -> None:
        self.runtime = runtime
        self.time = asyncio.get_running_loop().time
        self.answers: list[tuple[Issued, DirectiveOutcome | None]] = []
        self.engines = {
            name: SimulatedEngine(name, core, partial(self._later, self._take_report))
            for name, core in cores.items()
        }
        self._under_way: dict[int, Completion] = {}
        self._directing: set[asyncio.Task[None]] = set()
        self._awaited: dict[str, asyncio.Event] = {}
        self._served = 0
        self._alarm: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Starts the engines; the runtime learns what they can do and hold."""
        for name, engine in self.engines.items():
            engine.start()
            self.runtime.engine_kv(name, engine.kv(), self.time())

    def stop(self) -> None:
        for task in self._directing:
            task.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        for engine in self.engines.values():
            engine.stop()

    async def begin(self, headers: Mapping[str, str], data: bytes) -> Exchange:
        """Places a chat-completions call and sends it to an engine.

        Raises:
            RefusedRequest: if the engine cannot serve it.
        """
        await asyncio.sleep(NETWORK_S)
        body = orjson.loads(data)
        try:
            links = chain(body)
        except UnreadableContext as error:
            raise RefusedRequest(str(error)) from error
        header = headers.get(HINTS_HEADER)
        decoded = read_hints(header.encode() if header is not None else None)
        needed = links if self.runtime.needs_chain(DEFAULT_TENANT, decoded) else None
        call = self.runtime.arrive(Arrival(DEFAULT_TENANT, len(data), self.time(), decoded, needed))
        engine = self.engines[call.ranking[0]]
        self.runtime.dispatched(call, engine.name, self.time())
        self.drain()
        try:
            await self._heard(call)
            await asyncio.sleep(NETWORK_S)
            script = packaged_scripts().get(headers.get(SCRIPT_HEADER, ""))
            completion = check_completion(body, engine.core.profile, (), script, links)
        except BaseException as error:
            status = "refused" if isinstance(error, RefusedRequest) else "cancelled"
            self.runtime.ended_early(call, status, self.time())
            self.drain()
            raise
        self._served += 1
        self._under_way[call.id] = completion
        return Exchange(self, engine, call, completion, f"r{self._served}")

    def observe(self, events: Sequence[Event]) -> None:
        """Takes in lifecycle events that have arrived."""
        for event in events:
            self.runtime.observe(DEFAULT_TENANT, event, self.time())
        self.drain()

    def drain(self) -> None:
        """Sends the runtime's directives on their way; to be called after whatever it has taken in."""
        for issued in self.runtime.take_directives():
            self._later(self._deliver, issued)
        due = self.runtime.wake_at()
        if self._alarm is not None and (due is None or self._alarm.when() != due):
            self._alarm.cancel()
            self._alarm = None
        if due is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._tick)

    def tell(self, take_in: Callable[..., object], *what: object) -> None:
        """Tells the runtime of something that has just happened."""
        take_in(*what, self.time())
        self.drain()

    def ended(self, call: Call) -> None:
        self._under_way.pop(call.id, None)

    # --- inside

    async def _heard(self, call: Call) -> None:
        """Lets an engine hear of the copy that a call needs before the call, as the router does."""
        if call.copy is None:
            return
        heard = self._awaited[call.copy] = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COPY_HEARD_S):
                await heard.wait()
        self._awaited.pop(call.copy, None)

    def _later(self, act: Callable[..., None], *what: object) -> None:
        asyncio.get_running_loop().call_later(NETWORK_S, act, *what)

    def _take_report(self, engine: str, batch: ResidencyBatch) -> None:
        self.tell(self.runtime.report, engine, batch)

    def _tick(self) -> None:
        self._alarm = None
        self.tell(self.runtime.tick)

    def _deliver(self, issued: Issued) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(issued), name=f"directive {issued.id}")
        self._directing.add(task)
        task.add_done_callback(self._directing.discard)

    async def _carry_out(self, issued: Issued) -> None:
        engine = self.engines[issued.engine]
        outcome: DirectiveOutcome | None = None
        if issued.call is None:
            outcome = await engine.direct(issued.id, issued.directive, self.engines, NETWORK_S)
        elif (completion := self._under_way.get(issued.call)) is not None:
            outcome = await engine.warm_up(issued.id, issued.directive.digest, completion)
        await asyncio.sleep(NETWORK_S)
        self._answered(issued, outcome)

    def _answered(self, issued: Issued, outcome: DirectiveOutcome | None) -> None:
        self.answers.append((issued, outcome))
        if (heard := self._awaited.pop(issued.id, None)) is not None:
            heard.set()
        self.tell(self.runtime.directive_answered, issued.id, outcome)


class Exchange:
    """One call at one engine, from its arrival there to its answer's arrival at the client."""

    def __init__(
        self,
        fleet: SimulatedFleet,
        engine: SimulatedEngine,
        call: Call,
        completion: Completion,
        request_id: str,
    ) -> None:
        self.id = request_id
        self.engine = engine.name
        self.completion = completion
        self._fleet = fleet
        self._engine = engine
        self._call = call
        # As the router withholds the hints from the engine unless they may act.
        of_branch = call.of_branch and fleet.runtime.mode is Mode.ACT
        self._reply, self._ended = engine.submit(request_id, completion, of_branch=of_branch)

    @property
    def ack(self) -> list[tuple[bytes, bytes]]:
        return ack_header(self._call.ack)

    async def first_token(self) -> None:
        """Waits until the first token has reached the client, as in a stream."""
        try:
            while not self._reply.ready and not self._reply.ended:
                await self._reply.change()
            await asyncio.sleep(NETWORK_S)
            self._fleet.tell(self._fleet.runtime.answering, self._call)
            await asyncio.sleep(NETWORK_S)
        except BaseException:
            self._give_up()
            raise

    async def end(self) -> RequestStats:
        """Waits until the whole answer has reached the client.

        Raises:
            RuntimeError: if the engine stopped.
        """
        try:
            stats = await self._ended
            if stats is None:
                raise RuntimeError(f"{self.engine} dropped a request: it has stopped")
            await asyncio.sleep(NETWORK_S)
            usage = Usage(stats.prompt_tokens, stats.cached_tokens, stats.output_tokens)
            self._fleet.ended(self._call)
            self._fleet.tell(self._fleet.runtime.finished, self._call, usage)
            await asyncio.sleep(NETWORK_S)
        except BaseException:
            self._give_up()
            raise
        return stats

    def _give_up(self) -> None:
        self._fleet.ended(self._call)
        self._engine.abort(self.id)
        self._fleet.tell(self._fleet.runtime.ended_early, self._call, "cancelled")
