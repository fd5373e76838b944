"""An OpenAI-compatible server around the embedded engine. No model runs: its replies are made-up words, its
times are modelled, and every response says so.

    POST /v1/chat/completions     streamed or not
    GET  /v1/models  /health  /metrics
    POST /reset_prefix_cache      409 while requests hold blocks
    GET  /v1/agent/kv/events      residency, as server-sent events
    GET  /v1/agent/kv             what the cache can hold and what work costs
    POST /v1/agent/kv             directives
    POST /v1/agent/kv/export      what a peer can copy of a context; 404 if nothing
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from llmd_agents import serving
from llmd_agents.hints import (
    HINTS_HEADER,
    KV_EXPORT_PATH,
    KV_PATH,
    RESIDENCY_PATH,
    UnreadableHints,
    decode_directives,
    decode_hints,
)
from llmd_agents.hints.errors import first_problem
from llmd_agents.hints.limits import DIRECTIVES_BODY_MAX_BYTES
from llmd_agents.serving import Receive, Scope, Send

from . import openai_api
from .completion import Completion, RefusedRequest, read_completion
from .core import DEFAULT_RETENTION_BUDGET, EngineCore, StepOutput
from .dispatch import DispatchOrder, first_come_first_served
from .eviction import EvictionOrder
from .export import ExportRequest
from .feed import ResidencyFeed
from .kv_api import Peers, carry_out
from .kv_events_source import KvEventSource
from .loop import EngineLoop, Reply
from .metrics import CONTENT_TYPE, EngineMetrics
from .openai_api import ENGINE_HEADER, FINGERPRINT, Chunks
from .profile import EngineProfile
from .records import Listener, Record
from .request import RequestStats
from .script import SCRIPT_HEADER, Script, packaged_scripts

if TYPE_CHECKING:
    from .kv_events_publisher import KvEventPublisher

BODY_MAX_BYTES: Final = 64 << 20

_SCRIPT_HEADER: Final = SCRIPT_HEADER.encode()
_HINTS_HEADER: Final = HINTS_HEADER.encode()

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class EngineServer:
    """The ASGI application; one instance is one engine.

    Args:
        profile: sizes and cost model.
        model_names: models that are served; with none, any name is.
        time_scale: modelled seconds per second of wall time.
        eviction: see `EngineCore`.
        dispatch: see `EngineCore`.
        protect_waiting: see `EngineCore`.
        retention_budget: see `EngineCore`.
        listener: see `EngineCore`; called in the server's event loop.
        epoch: names this run of the engine in its residency events; random by default.
        scripts: what requests may ask for beside the packaged scripts; one of the same name takes its place.
        kv_events: where to publish KV events in vLLM's form; closed with the server.
    """

    def __init__(
        self,
        profile: EngineProfile,
        *,
        model_names: Sequence[str] = (),
        time_scale: float = 1.0,
        eviction: EvictionOrder | str = "next-use",
        dispatch: DispatchOrder = first_come_first_served,
        protect_waiting: bool = False,
        retention_budget: float = DEFAULT_RETENTION_BUDGET,
        listener: Listener | None = None,
        epoch: str | None = None,
        scripts: Mapping[str, Script] | None = None,
        kv_events: "KvEventPublisher | None" = None,
    ) -> None:
        self.profile = profile
        self.model_names = tuple(model_names)
        self.epoch = secrets.token_hex(8) if epoch is None else epoch
        self._kv_events = kv_events
        self._kv_source = KvEventSource(profile) if kv_events is not None else None
        if self._kv_source is not None:
            listener = self._kv_source if listener is None else _both(self._kv_source, listener)
        core = EngineCore(
            profile,
            eviction=eviction,
            dispatch=dispatch,
            protect_waiting=protect_waiting,
            retention_budget=retention_budget,
            listener=listener,
        )
        self._core = core
        self._loop = EngineLoop(core, time_scale=time_scale, on_step=self._on_step, on_end=self._on_end)
        self._peers = Peers()
        self._feed = ResidencyFeed(self.epoch, core.resident)
        self._metrics = EngineMetrics(core, self._shown_names[0], self._loop.now)
        self._running: dict[str, Completion] = {}
        self._scripts = {**packaged_scripts(), **(scripts or {})}
        self._served = 0
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": self._complete},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._scrape},
            "/reset_prefix_cache": {"POST": self._reset},
            RESIDENCY_PATH: {"GET": self._residency},
            KV_PATH: {"GET": self._kv, "POST": self._direct},
            KV_EXPORT_PATH: {"POST": self._export},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serving.lifespan(receive, send, self._start, self._stop)
        elif scope["type"] == "http":
            await self._route(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def close(self) -> None:
        """Ends residency subscriptions and drops requests, so that a server that stops has none to wait for.

        To be called in the server's event loop; calling it twice does no harm.
        """
        self._feed.close()
        self._loop.stop()

    async def _start(self) -> None:
        if self._kv_events is not None:
            self._kv_events.start()
        self._loop.start()

    async def _stop(self) -> None:
        self.close()
        if self._kv_events is not None:
            await self._kv_events.close()
        await self._peers.close()

    @property
    def _shown_names(self) -> tuple[str, ...]:
        return self.model_names or (self.profile.name,)

    def _on_step(self, output: StepOutput) -> None:
        if output.residency:
            self._feed.publish(output.residency)
        self._publish_kv_events()

    def _publish_kv_events(self) -> None:
        if self._kv_events is not None and self._kv_source is not None:
            self._kv_events.publish(self._kv_source.take())

    def _on_end(self, request_id: str, stats: RequestStats | None) -> None:
        completion = self._running.pop(request_id)
        if stats is None:
            self._metrics.aborted()
        else:
            # As in vLLM, a reply that calls tools has stopped like any other.
            reason = completion.finish_reason
            self._metrics.finished(stats, "stop" if reason == "tool_calls" else reason)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        methods = self._routes.get(path)
        if methods is None:
            await _refuse(send, f"there is no {path}", status=404)
        elif (handler := methods.get(method)) is None:
            allowed = ", ".join(methods)
            await _refuse(send, f"{path} takes {allowed}, not {method}", status=405, allow=allowed)
        else:
            await handler(scope, receive, send)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(send, openai_api.models(self._shown_names, self.profile.max_model_len))

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        alive = self._loop.alive
        await _answer(send, {"status": "ok" if alive else "stopped"}, status=200 if alive else 503)

    async def _scrape(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serving.send_bytes(send, 200, self._metrics.text(), CONTENT_TYPE, [ENGINE_HEADER])

    async def _reset(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._loop.reset():
            self._feed.publish((), cleared=True)
            self._publish_kv_events()
            await _answer(send, {"status": "ok"})
        else:
            await _refuse(send, "running requests hold blocks; nothing was reset", status=409)

    async def _residency(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._feed.subscribe() as subscription:
            watcher = asyncio.create_task(_when_gone(receive, subscription.close))
            try:
                await _start_stream(send)
                async for event in self._feed.events(subscription):
                    await _send_part(send, event)
                await _send_part(send, b"", last=True)
            finally:
                watcher.cancel()

    async def _kv(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _answer(send, self._loop.kv(self.epoch).model_dump(mode="json"))

    async def _direct(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = await _bounded_body(receive, send)
        if data is None:
            return
        try:
            message = decode_directives(data)
        except UnreadableHints as error:
            await _refuse(send, str(error), status=400)
            return
        if not self._loop.alive:
            await _refuse(send, "the engine is stopping", status=503)
            return
        outcomes = await carry_out(message, self._loop, self._peers)
        self._publish_kv_events()
        await _answer(send, outcomes.model_dump(mode="json"))

    async def _export(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = await _bounded_body(receive, send)
        if data is None:
            return
        try:
            asked = ExportRequest.model_validate_json(data)
        except ValidationError as error:
            await _refuse(send, first_problem(error), status=400)
            return
        export = self._loop.export(asked.digest, asked.scope)
        if export is None:
            await _refuse(send, "the context is not here", status=404)
        else:
            await _answer(send, export.model_dump(mode="json"))

    async def _complete(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await serving.read_body(receive, limit=BODY_MAX_BYTES)
            headers = scope.get("headers", [])
            script = self._script(headers)
            completion = read_completion(data, self.profile, self.model_names, script)
        except serving.ClientLeft:
            return
        except serving.BodyTooLarge:
            await _refuse(send, f"the body exceeds {BODY_MAX_BYTES} bytes", status=413)
            return
        except RefusedRequest as refused:
            await _refuse(
                send, refused.message, status=refused.status, param=refused.param, code=refused.code
            )
            return
        if not self._loop.alive:
            await _refuse(send, "the engine is stopping", status=503)
            return
        request_id = f"chatcmpl-{self.epoch}-{self._served}"
        self._served += 1
        reply = self._submit(request_id, completion, of_branch=_of_branch(headers))
        watcher = asyncio.create_task(_when_gone(receive, lambda: self._loop.abort(request_id)))
        try:
            if completion.stream:
                await _stream(send, request_id, completion, reply)
            else:
                await _whole(send, request_id, completion, reply)
        finally:
            watcher.cancel()
            self._loop.abort(request_id)

    def _script(self, headers: serving.Headers) -> Script | None:
        name = next((value for key, value in headers if key == _SCRIPT_HEADER), b"")
        return self._scripts.get(name.decode("latin-1"))

    def _submit(self, request_id: str, completion: Completion, *, of_branch: bool = False) -> Reply:
        reply = self._loop.submit(completion.request(request_id, of_branch=of_branch))
        self._running[request_id] = completion
        return reply


def _both(first: Listener, second: Listener) -> Listener:
    def listener(record: Record) -> None:
        first(record)
        second(record)

    return listener


def _of_branch(headers: serving.Headers) -> bool:
    """Returns whether hints say that a join waits for the request; never fails a call over them."""
    value = next((value for key, value in headers if key == _HINTS_HEADER), None)
    if value is None:
        return False
    try:
        hints = decode_hints(value).hints
    except UnreadableHints:
        return False
    return hints is not None and hints.step.fork is not None


async def _whole(send: Send, request_id: str, completion: Completion, reply: Reply) -> None:
    created = int(time.time())
    while not reply.ended:
        await reply.change()
    if reply.stats is None:
        await _refuse(send, "the request was dropped: the engine is stopping", status=503)
    else:
        await _answer(send, openai_api.whole(request_id, created, completion, reply.stats))


async def _stream(send: Send, request_id: str, completion: Completion, reply: Reply) -> None:
    chunks = Chunks(request_id, int(time.time()), completion)
    await _start_stream(send)
    sent = 0
    ended = False
    while not ended:
        ended, ready = reply.ended, reply.ready
        if ready > sent:
            part = chunks.part(sent, ready)
            await _send_part(send, part if sent else chunks.role() + part)
            sent = ready
        elif not ended:
            await reply.change()
    if reply.stats is not None:
        await _send_part(send, chunks.end(reply.stats), last=True)
    else:
        message = "the request was dropped: the engine is stopping"
        dropped = serving.error_body(message, kind="server_error")
        await _send_part(send, openai_api.event(dropped), last=True)


async def _bounded_body(receive: Receive, send: Send) -> bytes | None:
    """Returns the body of a request about the cache; None if the client left or has been refused."""
    try:
        return await serving.read_body(receive, limit=DIRECTIVES_BODY_MAX_BYTES)
    except serving.ClientLeft:
        return None
    except serving.BodyTooLarge:
        await _refuse(send, f"the body exceeds {DIRECTIVES_BODY_MAX_BYTES} bytes", status=413)
        return None


async def _when_gone(receive: Receive, act: Callable[[], None]) -> None:
    await serving.until_client_leaves(receive)
    act()


async def _start_stream(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store"), ENGINE_HEADER]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send_part(send: Send, data: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": not last})


async def _answer(
    send: Send, value: dict[str, Any], *, status: int = 200, headers: serving.Headers | None = None
) -> None:
    value["system_fingerprint"] = FINGERPRINT
    await serving.send_json(send, status, value, [ENGINE_HEADER, *(headers or ())])


async def _refuse(
    send: Send,
    message: str,
    *,
    status: int,
    param: str | None = None,
    code: str | None = None,
    allow: str | None = None,
) -> None:
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = [(b"allow", allow.encode())] if allow is not None else None
    error = serving.error_body(message, kind=kind, param=param, code=code)
    await _answer(send, error, status=status, headers=headers)
