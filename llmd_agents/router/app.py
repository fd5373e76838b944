"""The HTTP router: bare ASGI around the runtime."""

import asyncio
import contextlib
import json
import logging
import time
from typing import Any

import aiohttp
import orjson

from llmd_agents.hints import (
    ACK_HEADER,
    EVENTS_PATH,
    HINTS_HEADER,
    Ack,
    Decoded,
    Link,
    Rejection,
    UnreadableHints,
    chain,
    decode_events,
    decode_hints,
    encode_ack,
)
from llmd_agents.hints.limits import EVENTS_BODY_MAX_BYTES
from llmd_agents.runtime import Arrival, Call, Runtime, engines_view, program_view
from llmd_agents.serving import (
    BodyTooLarge,
    ClientLeft,
    Headers,
    Receive,
    Scope,
    Send,
    lifespan,
    read_body,
    send_bytes,
    send_error,
    send_json,
)

from . import quiet
from .bodies import asking_for_usage, splice
from .config import EngineConfig, RouterConfig
from .engine_link import EngineLink
from .metrics import CONTENT_TYPE, RouterMetrics
from .replies import UsageFilter, usage_of
from .tenancy import Tenants, cache_salt
from .upstream import Answer, EngineFailed, Outgoing, StreamBroke, ask, forwarded_headers

log = logging.getLogger("llmd_agents.router")

CHAT_PATH = "/v1/chat/completions"
PROGRAMS_PATH = "/v1/agent/programs/"
ENGINES_PATH = "/v1/agent/engines"


class Router:
    """An ASGI application that places OpenAI-compatible calls on engines."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._engines = config.named_engines()
        self._tenants = Tenants(config.tenants)
        self.runtime = Runtime(self._engines, sole_tenant=self._tenants.sole)
        self._metrics = RouterMetrics(self.runtime)
        self._session: aiohttp.ClientSession | None = None
        self._links: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self._start, self._stop)
        elif scope["type"] == "http":
            with contextlib.suppress(ClientLeft):
                await self._route(scope, receive, send)

    async def _start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout_s)
        self._session = session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        for name, engine in self._engines.items():
            link = EngineLink(name, engine, self.runtime, session, interval_s=self._config.health_interval_s)
            self._links.append(asyncio.create_task(link.run()))

    async def _stop(self) -> None:
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # --- routes

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if method == "GET" and path == "/health":
            await send_json(send, 200, {"status": "ok"})
        elif method == "GET" and path == "/ready":
            up = sum(state.up for state in self.runtime.engines.values())
            await send_json(send, 200 if up else 503, {"engines_up": up, "engines": len(self._engines)})
        elif method == "GET" and path == "/metrics":
            await send_bytes(send, 200, self._metrics.render(), CONTENT_TYPE)
        elif not path.startswith("/v1/"):
            await send_error(send, 404, f"no route {method} {path}")
        else:
            await self._route_api(scope, receive, send)

    async def _route_api(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        headers: Headers = scope["headers"]
        tenant = self._tenants.of(_header(headers, b"authorization"))
        if tenant is None:
            message = "the API key is missing or belongs to no tenant"
            await send_error(send, 401, message, code="invalid_api_key")
            return
        own = path.startswith("/v1/agent/")
        limit = EVENTS_BODY_MAX_BYTES if own else self._config.max_body_bytes
        try:
            body = await read_body(receive, limit=limit)
        except BodyTooLarge:
            await send_error(send, 413, f"the request body is larger than {limit} bytes")
            return
        if not own:
            await self._relay_unless_client_leaves(tenant, scope, body, receive, send)
        elif method == "POST" and path == EVENTS_PATH:
            await self._take_events(tenant, body, send)
        elif method == "GET" and path.startswith(PROGRAMS_PATH):
            await self._show_program(tenant, path.removeprefix(PROGRAMS_PATH), send)
        elif method == "GET" and path == ENGINES_PATH:
            await send_json(send, 200, {"engines": self._engines_view()})
        else:
            await send_error(send, 404, f"no route {method} {path}")

    async def _take_events(self, tenant: str, body: bytes, send: Send) -> None:
        try:
            events = decode_events(body)
        except UnreadableHints as error:
            self._metrics.events.labels("rejected").inc()
            await send_error(send, 400, f"not a batch of events: {error}")
            return
        refused = []
        for index, event in enumerate(events):
            rejection = (
                event if isinstance(event, Rejection) else self.runtime.observe(tenant, event, time.time())
            )
            if rejection is not None:
                reason = f"{rejection.hint}: {rejection.reason}"
                refused.append({"index": index, "reason": reason})
        accepted = len(events) - len(refused)
        self._metrics.events.labels("accepted").inc(accepted)
        self._metrics.events.labels("rejected").inc(len(refused))
        await send_json(send, 202, {"accepted": accepted, "rejected": refused})

    async def _show_program(self, tenant: str, program_id: str, send: Send) -> None:
        program = self.runtime.program(tenant, program_id)
        if program is None:
            await send_error(send, 404, "no such program", code="program_not_found")
        else:
            await send_json(send, 200, program_view(self.runtime, tenant, program))

    def _engines_view(self) -> list[dict[str, Any]]:
        views = engines_view(self.runtime)
        if self._tenants.sole is not None:  # addresses are the operator's, not every tenant's, to know
            for view in views:
                view["url"] = self._engines[view["name"]].url
        return views

    # --- model calls

    async def _relay_unless_client_leaves(
        self, tenant: str, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        async def client_left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        relay = asyncio.create_task(self._relay(tenant, scope, body, send))
        leaving = asyncio.create_task(client_left())
        try:
            await asyncio.wait((relay, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not relay.done():
                relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay
        finally:
            leaving.cancel()
            relay.cancel()

    async def _relay(self, tenant: str, scope: Scope, body: bytes, send: Send) -> None:
        call = self._decide(tenant, scope, body)
        hide_usage = False
        if scope["path"] == CHAT_PATH:
            body, hide_usage = asking_for_usage(body)
        if self._tenants.sole is None and scope["method"] == "POST" and body.rstrip().endswith(b"}"):
            body = splice(body, {"cache_salt": cache_salt(tenant)})
        try:
            answer = await self._first_answer(call, scope, body)
        except EngineFailed as failure:
            status, code = (504, "engine_timeout") if failure.timed_out else (503, "no_engine_available")
            headers = [(b"retry-after", b"1"), *self._ack_header(call.ack)]
            await send_error(send, status, str(failure), kind="server_error", code=code, headers=headers)
            self._metrics.responses.labels(status).inc()
            return
        try:
            await self._pass_on(call, answer, send, hide_usage=hide_usage)
        except BaseException:
            self.runtime.ended_early(call, "cancelled", time.time())
            raise
        finally:
            answer.close()
        self._metrics.responses.labels(answer.status).inc()

    def _decide(self, tenant: str, scope: Scope, body: bytes) -> Call:
        """Chooses engines for a call: from its hint header where that suffices, else from its body."""
        began = time.perf_counter()
        decoded, links = None, None
        if scope["path"] == CHAT_PATH:
            decoded = _read_hints(scope["headers"])
            if self.runtime.needs_chain(tenant, decoded):
                links = _read_chain(body)
        call = self.runtime.arrive(Arrival(tenant, len(body), time.time(), decoded=decoded, links=links))
        self._metrics.decision.observe(time.perf_counter() - began)
        self._metrics.hints.labels(_result(call.ack)).inc()
        if call.ack is not None and call.ack.rejected:
            first = call.ack.rejected[0]
            quiet.warn("hints", "hints rejected (the call goes on): %s: %s", first.hint, first.reason)
        return call

    async def _first_answer(self, call: Call, scope: Scope, body: bytes) -> Answer:
        """Tries the engines in order.

        Raises:
            EngineFailed: when none of them gave an answer; says how many were tried and why the last failed.
        """
        assert self._session is not None
        query = scope["query_string"].decode("latin-1")
        path = scope["path"] + (f"?{query}" if query else "")
        reason = ""
        for position, name in enumerate(call.ranking):
            engine = self._engines[name]
            outgoing = Outgoing(
                scope["method"], path, self._forwarded(scope["headers"], engine), body or None
            )
            self.runtime.dispatched(call, name)
            if position:
                self._metrics.failovers.inc()
            try:
                return await ask(
                    self._session,
                    engine.url,
                    outgoing,
                    timeout_s=self._config.answer_timeout_s,
                )
            except EngineFailed as failure:
                reason = f"{name} {failure}"
                self.runtime.failed(call, time.time())
                quiet.warn(f"engine {name}", "%s %s", name, failure)
                if failure.unreachable:
                    self.runtime.engine_down(name)
                if failure.timed_out:
                    # It would take the others as long, and each of them would have computed it for nothing.
                    raise EngineFailed(reason, timed_out=True) from failure
            except BaseException:
                self.runtime.ended_early(call, "cancelled", time.time())
                raise
        count = len(call.ranking)
        raise EngineFailed(f"tried {count} engine{'s' * (count != 1)}, none answered; last: {reason}")

    async def _pass_on(self, call: Call, answer: Answer, send: Send, *, hide_usage: bool) -> None:
        headers = answer.headers + self._ack_header(call.ack)
        if not answer.stream:
            headers.append((b"content-length", b"%d" % len(answer.body)))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})
            if answer.status < 400:
                self.runtime.finished(call, usage_of(answer.body), time.time())
            else:
                self.runtime.ended_early(call, "refused", time.time())
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        usage = UsageFilter(hide=hide_usage)
        tail = b""
        try:
            async for chunk in answer.chunks():
                if ready := usage.feed(chunk):
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
            tail = usage.rest()
            self.runtime.finished(call, usage.usage, time.time())
        except StreamBroke as error:
            tail = _stream_error(f"the engine broke off in the middle of its answer: {error}")
            self.runtime.failed(call, time.time())
        await send({"type": "http.response.body", "body": tail})

    def _forwarded(self, headers: Headers, engine: EngineConfig) -> tuple[tuple[str, str], ...]:
        # A key that names a tenant of ours is none of the engine's business.
        return forwarded_headers(headers, engine.api_key, keep_authorization=self._tenants.sole is not None)

    def _ack_header(self, ack: Ack | None) -> Headers:
        return [] if ack is None else [(ACK_HEADER.encode(), encode_ack(ack).encode("ascii"))]


def _header(headers: Headers, name: bytes) -> bytes | None:
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None


def _read_hints(headers: Headers) -> Decoded | None:
    """Returns what the hint header says; None without one. Whatever is wrong with it is in the result."""
    value = _header(headers, HINTS_HEADER.encode())
    if value is None:
        return None
    try:
        return decode_hints(value)
    except UnreadableHints as error:
        return Decoded(None, (Rejection("hints", str(error)),))
    except Exception:
        # No header may ever fail a call, not even one that shows a fault of ours.
        log.exception("reading hints failed")
        return Decoded(None, (Rejection("hints", "cannot be read"),))


def _read_chain(body: bytes) -> list[Link] | None:
    """Returns the chain of a body; None if it has none, which is for the engine to say."""
    try:
        value = _parse(body)
        return chain(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Slower, but it reads what clients in Python may write: lone surrogates and NaN.
        return json.loads(body)


def _result(ack: Ack | None) -> str:
    if ack is None:
        return "absent"
    if ack.rejected:
        return "rejected"
    return "clipped" if ack.clipped else "accepted"


def _stream_error(message: str) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": "engine_failed"}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"
