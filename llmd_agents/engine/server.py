"""An OpenAI-compatible server around the embedded engine. No model runs: its replies are made-up words, its
times are modelled, and every response says so.

    POST /v1/chat/completions, /v1/completions, /v1/responses     streamed or not
    GET, DELETE /v1/responses/ID  a stored response
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
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

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
from .asked_response import AskedResponse, read_response
from .completion import Completion, read_completion
from .core import DEFAULT_RETENTION_BUDGET, EngineCore, StepOutput
from .dispatch import DispatchOrder, first_come_first_served
from .eviction import EvictionOrder
from .export import ExportRequest
from .feed import ResidencyFeed
from .kv_api import Peers, carry_out
from .kv_events_source import KvEventSource
from .loop import EngineLoop, Reply
from .metrics import CONTENT_TYPE, EngineMetrics
from .openai_api import ENGINE_HEADER, FINGERPRINT, Answer
from .profile import EngineProfile
from .records import Listener, Record
from .request import RequestStats
from .request_body import RefusedRequest
from .responses_api import ResponseAnswer
from .script import SCRIPT_HEADER, Script, packaged_scripts
from .stored_responses import StoredResponses
from .text_api import TextAnswer
from .text_completion import read_text_completion

if TYPE_CHECKING:
    from .kv_events_publisher import KvEventPublisher

BODY_MAX_BYTES: Final = 64 << 20
RESPONSES_PATH: Final = "/v1/responses"
RESPONSE_PREFIX: Final = "resp_"

_DROPPED: Final = "the request was dropped: the engine is stopping"

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
        self._running: dict[str, _Call] = {}
        self._stored = StoredResponses()
        self._scripts = {**packaged_scripts(), **(scripts or {})}
        self._served = 0
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": partial(self._serve, self._begin_chat)},
            "/v1/completions": {"POST": partial(self._serve, self._begin_text)},
            RESPONSES_PATH: {"POST": partial(self._serve, self._begin_response)},
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
        call = self._running.pop(request_id)
        if stats is None:
            self._metrics.aborted()
        else:
            if call.stored is not None:
                body = openai_api.dump(call.answer.whole(stats))
                self._stored.put(call.stored.stored(request_id, body))
            # As in vLLM, a reply that calls tools has stopped like any other.
            reason = call.completion.finish_reason
            self._metrics.finished(stats, "stop" if reason == "tool_calls" else reason)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        methods = self._routes.get(path)
        if methods is None and path.startswith(RESPONSES_PATH + "/"):
            methods = self._of_response(path.removeprefix(RESPONSES_PATH + "/"))
        if methods is None:
            await _refuse(send, f"there is no {path}", status=404)
        elif (handler := methods.get(method)) is None:
            allowed = ", ".join(methods)
            await _refuse(send, f"{path} takes {allowed}, not {method}", status=405, allow=allowed)
        else:
            await handler(scope, receive, send)

    def _of_response(self, path: str) -> "dict[str, Handler] | None":
        """Returns what can be done with the response that a path names."""

        def handler(handle: Callable[[str, Send], Awaitable[None]]) -> Handler:
            return lambda scope, receive, send: handle(response_id, send)

        response_id, _, action = path.partition("/")
        if action == "cancel":
            return {"POST": handler(self._cancel_response)}
        if action or not response_id:
            return None
        return {"GET": handler(self._show_response), "DELETE": handler(self._delete_response)}

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

    async def _serve(self, begin: "_Begin", scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope.get("headers", [])
        try:
            data = await serving.read_body(receive, limit=BODY_MAX_BYTES)
            call = begin(data, self._script(headers))
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
        reply = self._submit(call, of_branch=_of_branch(headers))
        watcher = asyncio.create_task(_when_gone(receive, lambda: self._loop.abort(call.id)))
        try:
            if call.completion.stream:
                await _stream(send, call.answer, reply)
            else:
                await _whole(send, call.answer, reply)
        finally:
            watcher.cancel()
            self._loop.abort(call.id)

    def _begin_chat(self, data: bytes, script: Script | None) -> "_Call":
        completion = read_completion(data, self.profile, self.model_names, script)
        call_id, created = self._next_id("chatcmpl-")
        return _Call(call_id, completion, openai_api.ChatAnswer(call_id, created, completion))

    def _begin_text(self, data: bytes, script: Script | None) -> "_Call":
        completion = read_text_completion(data, self.profile, self.model_names, script)
        call_id, created = self._next_id("cmpl-")
        return _Call(call_id, completion, TextAnswer(call_id, created, completion))

    def _begin_response(self, data: bytes, script: Script | None) -> "_Call":
        asked = read_response(data, self.profile, self.model_names, self._stored, script)
        call_id, created = self._next_id(RESPONSE_PREFIX)
        answer = ResponseAnswer(call_id, created, asked)
        return _Call(call_id, asked.completion, answer, asked if asked.store else None)

    def _next_id(self, prefix: str) -> tuple[str, int]:
        number = self._served
        self._served += 1
        return f"{prefix}{self.epoch}-{number}", int(time.time())

    async def _show_response(self, response_id: str, send: Send) -> None:
        response = self._stored.get(response_id)
        if response is None:
            await _response_not_found(send, response_id)
        else:
            await serving.send_bytes(send, 200, response.body, b"application/json", [ENGINE_HEADER])

    async def _delete_response(self, response_id: str, send: Send) -> None:
        if self._stored.delete(response_id):
            await _answer(send, {"id": response_id, "object": "response", "deleted": True})
        else:
            await _response_not_found(send, response_id)

    async def _cancel_response(self, response_id: str, send: Send) -> None:
        if self._stored.get(response_id) is None:
            await _response_not_found(send, response_id)
        else:
            message = "only a response with background=true can be cancelled, and there is none here"
            await _refuse(send, message, status=400)

    def _script(self, headers: serving.Headers) -> Script | None:
        name = next((value for key, value in headers if key == _SCRIPT_HEADER), b"")
        return self._scripts.get(name.decode("latin-1"))

    def _submit(self, call: "_Call", *, of_branch: bool = False) -> Reply:
        lineage = call.stored.lineage(call.id) if call.stored is not None else None
        reply = self._loop.submit(call.completion.request(call.id, of_branch=of_branch, reply=lineage))
        self._running[call.id] = call
        return reply


@dataclass(frozen=True, slots=True)
class _Call:
    """A model call that was read: what is to run, and how it is answered; `stored` if it is to be kept."""

    id: str
    completion: Completion
    answer: Answer
    stored: AskedResponse | None = None


_Begin: TypeAlias = Callable[[bytes, Script | None], _Call]


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


async def _whole(send: Send, answer: Answer, reply: Reply) -> None:
    while not reply.ended:
        await reply.change()
    if reply.stats is None:
        await _refuse(send, _DROPPED, status=503)
    else:
        await _answer(send, answer.whole(reply.stats))


async def _stream(send: Send, answer: Answer, reply: Reply) -> None:
    await _start_stream(send)
    if opening := answer.opening():
        await _send_part(send, opening)
    sent = 0
    ended = False
    while not ended:
        ended, ready = reply.ended, reply.ready
        if ready > sent:
            if part := answer.part(sent, ready):
                await _send_part(send, part)
            sent = ready
        elif not ended:
            await reply.change()
    end = answer.end(reply.stats) if reply.stats is not None else answer.broken_off(_DROPPED)
    await _send_part(send, end, last=True)


async def _response_not_found(send: Send, response_id: str) -> None:
    await _refuse(send, f"Response with id '{response_id}' not found.", status=404)


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
    data = openai_api.dump(value)
    await serving.send_bytes(send, status, data, b"application/json", [ENGINE_HEADER, *(headers or ())])


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
