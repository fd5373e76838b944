"""An OpenAI client whose calls go to a simulated fleet: the SDK as it is, on a transport without sockets."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import orjson
from openai import AsyncOpenAI

from llmd_agents.client import instrument
from llmd_agents.client.clock import use_clock
from llmd_agents.client.frame import current_frame
from llmd_agents.client.sender import httpx, use_sender
from llmd_agents.engine import openai_api
from llmd_agents.engine.request_body import RefusedRequest
from llmd_agents.hints import EVENTS_PATH
from llmd_agents.serving import error_body

from .calls import CallRecord
from .in_loop_sender import InLoopSender
from .simulated_fleet import NETWORK_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import TypeAlias

    from llmd_agents.engine import RequestStats

    from .simulated_fleet import Exchange, SimulatedFleet

    OnCall: TypeAlias = Callable[[CallRecord], None]

_ORIGIN: Final = "http://fleet.invalid"
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream")


@contextmanager
def events_reach(fleet: SimulatedFleet) -> Iterator[None]:
    """Lets the lifecycle events of instrumented clients go to a fleet, and tell its time, in the block."""
    with (
        use_clock(fleet.time),
        use_sender(_ORIGIN + EVENTS_PATH, InLoopSender(fleet.observe, NETWORK_S)),
    ):
        yield


@asynccontextmanager
async def fleet_client(
    fleet: SimulatedFleet, *, hints: bool, on_call: OnCall | None = None
) -> AsyncIterator[AsyncOpenAI]:
    """Yields a client of a fleet.

    Args:
        hints: whether it sends hints.
        on_call: called with a record of every call that is answered.
    """
    http = httpx.AsyncClient(transport=_Transport(fleet, on_call), timeout=None)
    async with AsyncOpenAI(
        base_url=f"{_ORIGIN}/v1", api_key="none", http_client=http, max_retries=0
    ) as client:
        yield instrument(client) if hints else client


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, fleet: SimulatedFleet, on_call: OnCall | None) -> None:
        self._fleet = fleet
        self._on_call = on_call

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = asyncio.get_running_loop().time()
        try:
            exchange = await self._fleet.begin(request.headers, await request.aread())
        except RefusedRequest as refused:
            error = error_body(refused.message, param=refused.param, code=refused.code)
            return httpx.Response(refused.status, json=error)
        headers = [openai_api.ENGINE_HEADER, *exchange.ack]
        if exchange.completion.stream:
            await exchange.first_token()
            return httpx.Response(
                200, headers=[*headers, _EVENTS], stream=_Stream(exchange, began, self._on_call)
            )
        stats = await exchange.end()
        _record(self._on_call, exchange, stats, began)
        whole = openai_api.ChatAnswer(exchange.id, 0, exchange.completion).whole(stats)
        return httpx.Response(200, headers=[*headers, _JSON], content=orjson.dumps(whole))


class _Stream(httpx.AsyncByteStream):
    """A streamed answer in two parts: the first token, and the rest once it is complete."""

    def __init__(self, exchange: Exchange, began: float, on_call: OnCall | None) -> None:
        self._exchange = exchange
        self._began = began
        self._on_call = on_call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = openai_api.ChatAnswer(self._exchange.id, 0, self._exchange.completion)
        yield chunks.part(0, 1)
        stats = await self._exchange.end()
        _record(self._on_call, self._exchange, stats, self._began)
        yield (chunks.part(1, stats.output_tokens) if stats.output_tokens > 1 else b"") + chunks.end(stats)


def _record(on_call: OnCall | None, exchange: Exchange, stats: RequestStats, began: float) -> None:
    if on_call is None:
        return
    frame = current_frame()  # the caller's: the SDK runs a call in the task that makes it
    branch = frame.branch if frame is not None else None
    completion = exchange.completion
    on_call(
        CallRecord(
            branch=branch.id if branch is not None else None,
            fork=branch.fork if branch is not None else None,
            engine=exchange.engine,
            began_at=began,
            ended_at=asyncio.get_running_loop().time(),
            stats=stats,
            root=completion.root,
            prompt=completion.prompt.tokens,
            output=completion.output,
        )
    )
