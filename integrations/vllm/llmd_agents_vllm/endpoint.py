"""The engine's HTTP face for hints: the routes that the embedded engine has, on vLLM's own server.

    POST /v1/agent/kv          directives
    GET  /v1/agent/kv          what the cache can hold and what work costs
    GET  /v1/agent/kv/events   residency, as server-sent events

All lie under `/v1`, where vLLM asks for its API key when one is set.
"""

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from vllm import SamplingParams
from vllm.inputs import tokens_input

from llmd_agents.hints import (
    KV_PATH,
    RESIDENCY_PATH,
    Directive,
    DirectiveOutcome,
    Outcomes,
    UnreadableHints,
    decode_directives,
    encode_directives,
)
from llmd_agents.hints.limits import DIRECTIVES_BODY_MAX_BYTES

from .carried import AHEAD
from .engine_call import METHOD

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

log = logging.getLogger("vllm.llmd_agents")

ACTIONS_AT_ONCE: Final = 32
"""After so many actions the engine gets its turn."""

SUBSCRIBERS_MAX: Final = 32
LOOK_S: Final = 0.05
"""How often the engine is asked for changes, while somebody listens."""

HEARTBEAT_S: Final = 5.0
HEARTBEAT: Final = b": alive\n\n"

AHEAD_MAX: Final = 16
"""Contexts that may be on their way at once, unasked."""

AHEAD_S: Final = 60.0
"""What has not come by then is given up."""

LOWEST_PRIORITY: Final = 2**31 - 1


class Unavailable(Exception):
    """The engine cannot answer; says why.

    Attributes:
        status: to answer with: 501 if it will not do so later either, 503 if it may.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class AgentRoutes:
    """Serves the routes with one engine.

    Args:
        engine: vLLM's client of it.
        by_priority: whether its scheduler goes by priority; it refuses any otherwise.

    Raises:
        Unavailable: from each route, which `add_routes` makes the answer.
    """

    def __init__(self, engine: "EngineClient", *, by_priority: bool) -> None:
        self._engine = engine
        # One engine at each server, as with an external load balancer, is as good as one engine.
        self.engines = len(getattr(getattr(engine, "engine_core", None), "core_engines", ()))
        if self.engines > 1:
            log.error(
                "The routes of llmd-agents answer 501: data parallelism is not supported, and %d engines are "
                "behind this server",
                self.engines,
            )
        self._priority = LOWEST_PRIORITY if by_priority else 0
        self._ahead: set[asyncio.Task[None]] = set()
        self._subscribers = 0

    async def show(self) -> Response:
        return JSONResponse(await self._ask("kv", None))

    async def direct(self, request: Request) -> Response:
        body = await _bounded(request)
        if body is None:
            return _error(413, f"the body exceeds {DIRECTIVES_BODY_MAX_BYTES} bytes")
        try:
            message = await asyncio.to_thread(decode_directives, body)
        except UnreadableHints as error:
            return _error(400, str(error))
        outcomes = await self._carry_out(message.message_id, message.actions)
        answer = Outcomes.model_construct(message_id=message.message_id, outcomes=tuple(outcomes))
        return Response(answer.model_dump_json(), media_type="application/json")

    async def subscribe(self) -> Response:
        if self._subscribers >= SUBSCRIBERS_MAX:
            return _error(429, f"{SUBSCRIBERS_MAX} subscribers are served already")
        self._subscribers += 1
        try:
            first = await self._ask("residency", {"since": None, "epoch": None})
        except BaseException:
            self._unsubscribed()
            raise
        return _EventStream(self._events(first), self._unsubscribed)

    def _unsubscribed(self) -> None:
        self._subscribers -= 1

    async def _carry_out(
        self, message_id: str, actions: Sequence[tuple[str, Directive] | DirectiveOutcome]
    ) -> list[DirectiveOutcome]:
        """Carries a message out in parts; once something is done, what fails is rejected alone.

        Raises:
            Unavailable: if nothing was done.
        """
        # Each action is answered in its place, even where several have one id.
        answers: list[DirectiveOutcome | None] = [
            action if isinstance(action, DirectiveOutcome) else None for action in actions
        ]
        valid = [
            (index, action)
            for index, action in enumerate(actions)
            if not isinstance(action, DirectiveOutcome)
        ]
        for start in range(0, len(valid), ACTIONS_AT_ONCE):
            part = valid[start : start + ACTIONS_AT_ONCE]
            message = encode_directives(message_id, [action for _, action in part]).decode()
            try:
                given: list[dict[str, Any]] = await self._ask("direct", message)
            except Unavailable as error:
                if start == 0:
                    raise
                for index, (action_id, _) in valid[start:]:
                    answers[index] = DirectiveOutcome(
                        action_id=action_id, outcome="rejected", reason=str(error)
                    )
                break
            for (index, _), answer in zip(part, given, strict=True):
                if "ahead" in answer:
                    answers[index] = self._bring(**answer["ahead"])
                else:
                    answers[index] = DirectiveOutcome.model_validate(answer["outcome"])
        return [answer for answer in answers if answer is not None]

    def _bring(self, action_id: str, tokens: list[int], salt: str | None) -> DirectiveOutcome:
        """Begins to bring a context to the device."""
        full = len(self._ahead) >= AHEAD_MAX
        bringing = asyncio.create_task(self._brought(tokens) if full else self._fetch(tokens, salt))
        self._ahead.add(bringing)
        bringing.add_done_callback(self._ahead.discard)
        if full:
            reason = f"{AHEAD_MAX} contexts are on their way already"
            return DirectiveOutcome(action_id=action_id, outcome="rejected", reason=reason)
        return DirectiveOutcome(action_id=action_id, outcome="applied", tokens=len(tokens))

    async def _fetch(self, tokens: list[int], salt: str | None) -> None:
        prompt = tokens_input(tokens, cache_salt=salt)
        request_id = f"{AHEAD}{secrets.token_hex(8)}"
        one = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
        try:
            async with asyncio.timeout(AHEAD_S):
                async for _ in self._engine.generate(prompt, one, request_id, priority=self._priority):
                    pass
        except Exception:
            log.debug("a context could not be brought ahead", exc_info=True)
        await self._brought(tokens)

    async def _brought(self, tokens: list[int]) -> None:
        with contextlib.suppress(Unavailable):
            await self._ask("brought", len(tokens))

    async def _events(self, batches: list[dict[str, Any]]) -> AsyncIterator[bytes]:
        since: int | None = None
        epoch: str | None = None
        clock = asyncio.get_running_loop().time
        heard_s = clock()
        while True:
            for batch in batches:
                since, epoch = batch["seq"], batch["epoch"]
                yield b"data: %s\n\n" % json.dumps(batch, separators=(",", ":")).encode()
            if batches:
                heard_s = clock()
            elif clock() - heard_s >= HEARTBEAT_S:
                yield HEARTBEAT
                heard_s = clock()
            await asyncio.sleep(LOOK_S)
            try:
                batches = await self._ask("residency", {"since": since, "epoch": epoch})
            except Unavailable:
                return

    async def _ask(self, what: str, argument: Any) -> Any:
        try:
            core: Any = self._engine.engine_core
            answer = json.loads(await core.call_utility_async(METHOD, what, json.dumps(argument)))
        except Exception as error:
            raise Unavailable(f"the engine does not answer: {type(error).__name__}", 503) from error
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"], 501)
        return answer["answer"]


class _EventStream(StreamingResponse):
    """Server-sent events; tells when it is over, also if it did not begin."""

    def __init__(self, events: AsyncIterator[bytes], over: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._over = over

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


def add_routes(app: FastAPI) -> None:
    """Adds the routes; they answer 503 until `app.state.agent_routes` is set."""

    async def show(request: Request) -> Response:
        return await _routes(request).show()

    async def direct(request: Request) -> Response:
        return await _routes(request).direct(request)

    async def subscribe(request: Request) -> Response:
        return await _routes(request).subscribe()

    async def unavailable(request: Request, error: Unavailable) -> Response:
        return _error(error.status, str(error))

    app.add_api_route(KV_PATH, show, methods=["GET"], response_model=None)
    app.add_api_route(KV_PATH, direct, methods=["POST"], response_model=None)
    app.add_api_route(RESIDENCY_PATH, subscribe, methods=["GET"], response_model=None)
    app.add_exception_handler(Unavailable, unavailable)


def _routes(request: Request) -> AgentRoutes:
    routes: AgentRoutes | None = getattr(request.app.state, "agent_routes", None)
    if routes is None:
        raise Unavailable("the engine is starting", 503)
    if routes.engines > 1:
        raise Unavailable("data parallelism is not supported", 501)
    return routes


async def _bounded(request: Request) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > DIRECTIVES_BODY_MAX_BYTES:
            return None
    return bytes(body)


def _error(status: int, message: str) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status_code=status)
