"""The HTTP router: bare ASGI around the runtime."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from llmd_agents.hints import (
    EVENTS_PATH,
    HINTS_HEADER,
    Ack,
    Decoded,
    Event,
    Rejection,
    UnreadableHints,
    decode_events,
    residency_scope,
)
from llmd_agents.hints.limits import EVENTS_BODY_MAX_BYTES
from llmd_agents.runtime import (
    Arrival,
    Call,
    Journal,
    Mode,
    Runtime,
    Usage,
    engines_view,
    program_view,
)
from llmd_agents.runtime.contexts import BYTES_PER_TOKEN
from llmd_agents.runtime.reading import ack_header, is_plain_json_object, read_chain, read_hints
from llmd_agents.serving import (
    BodyTooLarge,
    ClientLeft,
    Headers,
    Receive,
    Scope,
    Send,
    error_body,
    lifespan,
    read_body,
    send_bytes,
    send_error,
    send_json,
    server_sent,
    until_client_leaves,
)

from . import quiet
from .actuators import Actuators
from .bodies import asking_for_usage, previous_response, splice
from .config import BadConfig, EngineConfig, RouterConfig
from .engine_link import EngineLink
from .metrics import CONTENT_TYPE, RouterMetrics
from .mode import MODE_PATH, read_mode
from .priorities import Priorities, engine_priority, refuses_priority, with_priority
from .record import RecordFile
from .replies import UsageFilter, id_of, usage_of
from .routes import GENERATING, RESPONSES_PATH, response_named
from .stored_responses import StoredAt, StoredResponses
from .tenancy import Tenants
from .upstream import Answer, EngineFailed, Outgoing, Sessions, StreamBroke, ask, forwarded_headers

log = logging.getLogger("llmd_agents.router")

PROGRAMS_PATH = "/v1/agent/programs/"
ENGINES_PATH = "/v1/agent/engines"

LARGE_BODY_BYTES = 512 * 1024
"""Bodies beyond this are parsed in a thread, so that other calls need not wait for it."""

ATTEMPTS_MAX = 3


class Router:
    """An ASGI application that places OpenAI-compatible calls on engines.

    Raises:
        BadConfig: if the record cannot be opened for writing.
    """

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._engines = config.named_engines()
        self._tenants = Tenants(config.tenants, config.operator_api_keys)
        self._record = _opened(config.record)
        self.runtime = Runtime(
            self._engines,
            {tenant: residency_scope(salt) for tenant, salt in self._tenants.salts.items()},
            placement=config.placement,
            mode=config.mode,
            journal=Journal(self._record.write) if self._record is not None else None,
        )
        self._metrics = RouterMetrics(self.runtime, self._record)
        self._priorities = Priorities(self._engines)
        self._stored = StoredResponses()
        self._sessions: Sessions | None = None
        self._acting: Actuators | None = None
        self._links: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send, self._start, self._stop)
        elif scope["type"] == "http":
            with contextlib.suppress(ClientLeft):
                await self._route(scope, receive, send)

    async def _start(self) -> None:
        if self._record is not None:
            self._record.start()
        self._sessions = Sessions(connect_timeout_s=self._config.connect_timeout_s)
        self._acting = Actuators(
            self.runtime,
            self._engines,
            self._metrics,
            self._priorities,
            answer_timeout_s=self._config.answer_timeout_s,
            connect_timeout_s=self._config.connect_timeout_s,
        )
        for name, engine in self._engines.items():
            link = EngineLink(
                name,
                engine,
                self.runtime,
                self._sessions.pooled,
                self._acting,
                interval_s=self._config.health_interval_s,
                load_interval_s=self._config.load_interval_s,
            )
            self._links.append(asyncio.create_task(link.run()))

    async def _stop(self) -> None:
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        if self._acting is not None:
            await self._acting.close()
        if self._sessions is not None:
            await self._sessions.close()
        if self._record is not None:
            await asyncio.to_thread(self._record.close)

    @property
    def _actuators(self) -> Actuators:
        assert self._acting is not None
        return self._acting

    # --- routes

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if any(part in (".", "..") for part in path.split("/")):
            # Resolved further on, such a path would reach what is no client's business.
            await send_error(send, 400, "the path must not hold . or .. segments")
        elif method == "GET" and path == "/health":
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
        if path == MODE_PATH and self._tenants.may_operate(_header(headers, b"authorization")):
            await self._route_mode(method, receive, send)
            return
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
        elif path == MODE_PATH:
            await send_error(send, 403, "this key may not operate the router", code="not_an_operator")
        else:
            await send_error(send, 404, f"no route {method} {path}")

    async def _route_mode(self, method: str, receive: Receive, send: Send) -> None:
        if method == "PUT":
            try:
                wanted = read_mode(await read_body(receive, limit=EVENTS_BODY_MAX_BYTES))
            except BodyTooLarge:
                await send_error(send, 413, f"the request body is larger than {EVENTS_BODY_MAX_BYTES} bytes")
                return
            except ValueError as error:
                await send_error(send, 400, str(error), param="mode")
                return
            if wanted is not self.runtime.mode:
                log.warning("hints: mode %s from now on (was %s)", wanted, self.runtime.mode)
                self._actuators.set_mode(wanted)
        elif method != "GET":
            await send_error(send, 404, f"no route {method} {MODE_PATH}")
            return
        await send_json(send, 200, {"mode": self.runtime.mode})

    async def _take_events(self, tenant: str, body: bytes, send: Send) -> None:
        try:
            events = decode_events(body)
        except UnreadableHints as error:
            self._metrics.events.labels("rejected").inc()
            await send_error(send, 400, f"not a batch of events: {error}")
            return
        refused = []
        for index, event in enumerate(events):
            rejection = event if isinstance(event, Rejection) else self._observe(tenant, event)
            if rejection is not None:
                reason = f"{rejection.hint}: {rejection.reason}"
                refused.append({"index": index, "reason": reason})
        self._actuators.changed()
        accepted = len(events) - len(refused)
        self._metrics.events.labels("accepted").inc(accepted)
        self._metrics.events.labels("rejected").inc(len(refused))
        await send_json(send, 202, {"accepted": accepted, "rejected": refused})

    def _observe(self, tenant: str, event: Event) -> Rejection | None:
        with quiet.faults("an event cannot be used; the others count"):
            return self.runtime.observe(tenant, event, time.time())
        return Rejection(event.type, "cannot be used")

    async def _show_program(self, tenant: str, program_id: str, send: Send) -> None:
        program = self.runtime.program(tenant, program_id)
        if program is None:
            await send_error(send, 404, "no such program", code="program_not_found")
        else:
            await send_json(send, 200, program_view(self.runtime, tenant, program))

    def _engines_view(self) -> list[dict[str, Any]]:
        views = engines_view(self.runtime)
        if not self._tenants.told_apart:  # addresses are the operator's, not every tenant's, to know
            for view in views:
                view["url"] = self._engines[view["name"]].url
        return views

    # --- model calls

    async def _relay_unless_client_leaves(
        self, tenant: str, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        relay = asyncio.create_task(self._relay(tenant, scope, body, send))
        leaving = asyncio.create_task(until_client_leaves(receive))
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
        salt = self._tenants.salts[tenant]
        if salt is not None and body:
            encoded = _header(scope["headers"], b"content-encoding") is not None
            if encoded or not is_plain_json_object(body):
                await send_error(send, 400, "the body must be a JSON object in UTF-8, not encoded otherwise")
                return
        path = scope["path"]
        named = await self._response_needed(path, body)
        if named is not None and self._tenants.told_apart and self._stored.find(tenant, named) is None:
            # Engines do not tell tenants apart, and so would continue or show anyone's.
            await _refuse_stored(send, named, continued=response_named(path) is None)
            return
        call, headers = await self._decide(tenant, scope, body, named)
        hide_usage = False
        if path in GENERATING and path != RESPONSES_PATH:
            body, hide_usage = asking_for_usage(body)
        if salt is not None and body:
            body = splice(body, {"cache_salt": salt})
        if path in GENERATING and scope["method"] == "POST" and named is None:
            with self._actuators.under_way(call.id, partial(self._outgoing, call, scope, body)):
                await self._answer(call, scope, body, headers, send, hide_usage=hide_usage)
        else:
            await self._answer(call, scope, body, headers, send, named=named, hide_usage=hide_usage)

    async def _response_needed(self, path: str, body: bytes) -> str | None:
        """Returns the id of the stored response without which an engine cannot answer a call."""
        if not path.startswith(RESPONSES_PATH):
            return None
        if (named := response_named(path)) is not None or not body:
            return named
        if len(body) > LARGE_BODY_BYTES:
            return await asyncio.to_thread(previous_response, body)
        return previous_response(body)

    async def _answer(
        self,
        call: Call,
        scope: Scope,
        body: bytes,
        headers: Headers,
        send: Send,
        *,
        named: str | None = None,
        hide_usage: bool,
    ) -> None:
        searching = named is not None and self._stored.find(call.tenant, named) is None
        try:
            answer = await self._first_answer(call, scope, body, searching=searching)
        except EngineFailed as failure:
            status, code = (504, "engine_timeout") if failure.timed_out else (503, "no_engine_available")
            headers = [(b"retry-after", b"1"), *headers]
            await send_error(send, status, str(failure), kind="server_error", code=code, headers=headers)
            self._metrics.responses.labels(status).inc()
            return
        if answer.status < 400:
            if not (answer.events and scope["path"] == RESPONSES_PATH):
                self._tell(self.runtime.answering, call)
            if named is not None and scope["method"] == "DELETE":
                self._stored.forget(call.tenant, named)
        stores = scope["path"] == RESPONSES_PATH and scope["method"] == "POST"
        try:
            await self._pass_on(call, answer, headers, send, hide_usage=hide_usage, stores=stores)
        except BaseException:
            self._tell(self.runtime.ended_early, call, "cancelled")
            raise
        finally:
            answer.close()
        self._metrics.responses.labels(answer.status).inc()

    async def _decide(
        self, tenant: str, scope: Scope, body: bytes, named: str | None
    ) -> tuple[Call, Headers]:
        """Chooses engines for a call, from its hint header where that suffices, else from its body.

        Args:
            named: the stored response that it needs.

        Returns the call, and the response headers that answer its hints.
        """
        decoded, links = None, None
        if scope["path"] in GENERATING:
            decoded = self._read_hints(scope["headers"])
            if named is not None or self.runtime.needs_chain(tenant, decoded):
                if len(body) > LARGE_BODY_BYTES:
                    links = await asyncio.to_thread(read_chain, body)
                else:
                    links = read_chain(body)
        began = time.perf_counter()
        lineage = next((link.digest for link in links or () if link.role == "previous"), None)
        stored = self._stored.find(tenant, named) if named is not None else None
        if lineage is not None and stored is not None and stored.digest is not None:
            size = (stored.output_tokens or 0) * BYTES_PER_TOKEN
            self._tell(self.runtime.continued, tenant, lineage, stored.digest, size)
        arrival = Arrival(tenant, len(body), time.time(), decoded=decoded, links=links)
        try:
            call = self.runtime.arrive(arrival)
            headers = ack_header(call.ack)
        except Exception:
            # Hints never fail a call, not even by a fault of ours.
            log.exception("hints cannot be used; the call goes on without them")
            call, headers = self.runtime.arrive(Arrival(tenant, len(body), time.time())), []
        if named is not None:
            self._lead_to_stored(call, stored, lineage)
        self._metrics.decision.observe(time.perf_counter() - began)
        self._actuators.changed()
        self._metrics.hints.labels(_result(call.ack)).inc()
        if call.ack is not None and call.ack.rejected and self.runtime.mode is not Mode.OFF:
            first = call.ack.rejected[0]
            quiet.warn("hints", "hints rejected (the call goes on): %s: %s", first.hint, first.reason)
        return call, headers

    def _lead_to_stored(self, call: Call, stored: StoredAt | None, lineage: bytes | None) -> None:
        """Sends a call that needs a stored response to the engine that has it, whatever speaks for others.

        Where that is not known, as after a restart, those that say to hold its context are asked first.
        """
        if stored is not None:
            if self.runtime.engines[stored.engine].up:
                call.ranking = [stored.engine]
        elif lineage is not None:
            context = self.runtime.contexts(call.tenant).get(lineage)
            holders = context.holders if context is not None else {}
            call.ranking.sort(key=lambda name: name not in holders)

    def _read_hints(self, headers: Headers) -> Decoded | None:
        value = _header(headers, HINTS_HEADER.encode())
        if self.runtime.mode is Mode.OFF and value is not None:
            return Decoded(None, ())  # off means that not even reading them can do harm
        return read_hints(value)

    async def _first_answer(self, call: Call, scope: Scope, body: bytes, *, searching: bool) -> Answer:
        """Tries the engines in order, though no more than `ATTEMPTS_MAX` that take the request: one that
        brings engines down must not visit them all.

        Args:
            searching: nobody knows which engine stores what the call needs; one that has not says 404.

        Raises:
            EngineFailed: when none of them gave an answer; says how many were tried and why the last failed.
        """
        assert self._sessions is not None
        reason = ""
        missing: Answer | None = None
        tried = taken = 0
        for name in call.ranking:
            engine = self._engines[name]
            self._tell(self.runtime.dispatched, call, name)
            if tried:
                self._metrics.failovers.inc()
            tried += 1
            try:
                if call.copy is not None:
                    await self._actuators.heard(call.copy)
                answer = await self._ask(call, name, self._outgoing(call, scope, body, engine))
                if not (searching and answer.status == 404 and answer.whole):
                    return answer
                answer.close()
                missing = answer
                self._tell(self.runtime.ended_early, call, "refused")
            except EngineFailed as failure:
                reason = f"{name} {failure}"
                self._tell(self.runtime.failed, call)
                quiet.warn(f"engine {name}", "%s %s", name, failure)
                if failure.timed_out:
                    # It would take the others as long, and each of them would have computed it for nothing.
                    raise EngineFailed(reason, timed_out=True) from failure
                if failure.unreachable:
                    self._tell(self.runtime.engine_down, name)
                else:
                    taken += 1
                if taken == ATTEMPTS_MAX:
                    break
            except BaseException:
                self._tell(self.runtime.ended_early, call, "cancelled")
                raise
        if missing is not None:
            return missing
        raise EngineFailed(f"tried {tried} engine{'s' * (tried != 1)}, none answered; last: {reason}")

    async def _ask(self, call: Call, name: str, request: Outgoing) -> Answer:
        """Asks an engine, with the priority of the call's program where the engine takes one.

        Raises:
            EngineFailed: if it gives no answer.
        """
        assert self._sessions is not None
        url, timeout_s = self._engines[name].url, self._config.answer_timeout_s
        if call.priority is not None and self.runtime.mode is Mode.ACT and self._priorities.taken(name):
            prioritized = with_priority(request, engine_priority(call.priority))
            if prioritized is not None:
                answer = await ask(self._sessions, url, prioritized, timeout_s=timeout_s)
                if not refuses_priority(answer):
                    return answer
                # It is another engine than the one that took it; what it refuses is not the client's doing.
                answer.close()
                self._priorities.refused(name)
                quiet.warn(f"priority {name}", "%s refuses priorities; calls go there without", name)
        return await ask(self._sessions, url, request, timeout_s=timeout_s)

    def _outgoing(self, call: Call, scope: Scope, body: bytes, engine: EngineConfig) -> Outgoing:
        path = scope["raw_path"].decode("latin-1")
        if query := scope["query_string"].decode("latin-1"):
            path += f"?{query}"
        # An engine need not see a hint header that could not be read or must not act, nor a key that names a
        # tenant of ours.
        headers: Headers = scope["headers"]
        unread = call.ack is not None and any(item.hint == "hints" for item in call.ack.rejected)
        if unread or self.runtime.mode is not Mode.ACT:
            headers = [item for item in headers if item[0] != HINTS_HEADER.encode()]
        forwarded = forwarded_headers(
            headers, engine.api_key, keep_authorization=not self._tenants.told_apart
        )
        return Outgoing(scope["method"], path, forwarded, body or None)

    async def _pass_on(
        self,
        call: Call,
        answer: Answer,
        own_headers: Headers,
        send: Send,
        *,
        hide_usage: bool,
        stores: bool,
    ) -> None:
        headers = answer.headers + own_headers
        stored = StoredAt(call.engine, call.digest) if stores and call.engine is not None else None
        if answer.whole:
            usage_told = usage_of(answer.body)
            if stored is not None and answer.status < 400:
                self._note_stored(call.tenant, stored, id_of(answer.body), usage_told)
            headers.append((b"content-length", b"%d" % len(answer.body)))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})
            self._ended(call, answer, usage_told)
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        usage = UsageFilter(hide=hide_usage) if answer.events else None
        tail = b""
        try:
            async for chunk in answer.chunks():
                ready = usage.feed(chunk) if usage else chunk
                if usage and answer.status < 400:
                    if usage.begun and not call.answering:
                        self._tell(self.runtime.answering, call)
                    if stored is not None:
                        self._note_stored(call.tenant, stored, usage.response_id, usage.usage)
                if ready:
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
            tail = usage.rest() if usage else b""
            self._ended(call, answer, usage.usage if usage else None)
        except StreamBroke as error:
            self._tell(self.runtime.failed, call)
            if not usage:
                raise  # what is no event stream can only be cut short
            tail = _stream_error(f"the engine broke off in the middle of its answer: {error}")
        await send({"type": "http.response.body", "body": tail})

    def _note_stored(
        self, tenant: str, stored: StoredAt, response_id: str | None, usage: Usage | None
    ) -> None:
        if response_id is not None:
            stored.output_tokens = usage.output_tokens if usage is not None else None
            self._stored.note(tenant, response_id, stored)

    def _ended(self, call: Call, answer: Answer, usage: Usage | None) -> None:
        if answer.status < 400:
            self._tell(self.runtime.finished, call, usage)
        else:
            self._tell(self.runtime.ended_early, call, "refused")

    def _tell(self, take_in: Callable[..., object], *what: object) -> None:
        """Tells the runtime of something that has just happened."""
        with quiet.faults("the runtime failed; calls go on"):
            take_in(*what, time.time())
        self._actuators.changed()


async def _refuse_stored(send: Send, response_id: str, *, continued: bool) -> None:
    if continued:
        message, param = f"Previous response with id '{response_id}' not found.", "previous_response_id"
        await send_error(send, 404, message, param=param, code="previous_response_not_found")
    else:
        message = f"Response with id '{response_id}' not found."
        await send_error(send, 404, message, code="response_not_found")


def _opened(path: Path | None) -> RecordFile | None:
    if path is None:
        return None
    try:
        return RecordFile(path)
    except OSError as error:
        raise BadConfig(f"record: {path}: {error.strerror}") from None


def _header(headers: Headers, name: bytes) -> bytes | None:
    values = [value for key, value in headers if key == name]
    return b", ".join(values) if values else None


def _result(ack: Ack | None) -> str:
    if ack is None:
        return "absent"
    if ack.rejected:
        return "rejected"
    return "clipped" if ack.clipped else "accepted"


def _stream_error(message: str) -> bytes:
    return server_sent(orjson.dumps(error_body(message, kind="server_error", code="engine_failed")))
