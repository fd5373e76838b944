"""ASGI middleware: a call's chain and hints go into its body, since vLLM drops request headers.

    vllm serve … --middleware llmd_agents_vllm.middleware.HintsMiddleware

It is outermost in vLLM's stack, but reads no body of its own accord: it stands in `receive`, so that a
request that vLLM's own middleware turns away (no API key) costs nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias

from llmd_agents.hints import HINTS_HEADER

from .carried import fold

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"

BODY_MAX_BYTES: Final = 64 << 20
"""A longer body passes as it comes, without our fields."""

THREAD_FROM_BYTES: Final = 512 << 10
"""Reading a body of this size takes some milliseconds: it is done beside the event loop."""

log = logging.getLogger("vllm.llmd_agents")


class HintsMiddleware:
    """Adds `kv_transfer_params["llmd_agents"]` to chat completions, and to completions that bring hints; what
    a client has put there itself is removed.

    Everything else passes untouched, and so does every call while the engine has no KV connector: vLLM would
    log a warning for each call that brings parameters.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and _takes_hints(scope):
            receive = _FoldedBody(scope, receive)
        await self._app(scope, receive, send)


def _takes_hints(scope: Scope) -> bool:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path not in (CHAT, COMPLETIONS):
        return False
    headers: Headers = scope["headers"]
    if (_header(headers, b"content-encoding") or b"identity").strip().lower() != b"identity":
        return False
    return _has_connector(scope)


def _has_connector(scope: Scope) -> bool:
    """Returns whether the engine behind this server has a KV connector; true where that cannot be seen."""
    state = getattr(scope.get("app"), "state", None)
    config = getattr(state, "vllm_config", None)
    return config is None or getattr(config, "kv_transfer_config", True) is not None


def _header(headers: Headers, name: bytes) -> bytes | None:
    """Returns a header's value; several lines of one structured field are one list."""
    values = [value for key, value in headers if key.lower() == name]
    return b", ".join(values) if values else None


class _FoldedBody:
    """A request's `receive`: the whole body as one message with our fields added, then whatever comes.

    It can be called again after a call of it was cancelled. When the client leaves first, or the body is too
    long, the messages come out as they came in.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._messages: deque[Message] = deque()
        self._size = 0
        self._ended = False
        self._ready = False

    async def __call__(self) -> Message:
        if not self._ready:
            await self._read()
            self._ready = True
        return self._messages.popleft() if self._messages else await self._receive()

    async def _read(self) -> None:
        while not self._ended and self._size <= BODY_MAX_BYTES:
            message = await self._receive()
            self._messages.append(message)
            if message["type"] != "http.request":
                return
            self._size += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        if self._ended and self._size <= BODY_MAX_BYTES:
            await self._fold()

    async def _fold(self) -> None:
        body = b"".join(message.get("body", b"") for message in self._messages)
        header = _header(self._scope["headers"], HINTS_HEADER.encode())
        try:
            if len(body) < THREAD_FROM_BYTES:
                folded = fold(body, header)
            else:
                folded = await asyncio.to_thread(fold, body, header)
        except Exception:
            log.exception("folding hints into a request failed; it goes on without them")
            return
        if folded is not body:
            _set_length(self._scope, len(folded))
            self._messages = deque([{"type": "http.request", "body": folded, "more_body": False}])


def _set_length(scope: Scope, length: int) -> None:
    # In place where it can be: what has looked at the headers before keeps the same list.
    headers = scope["headers"]
    changed = [(key, b"%d" % length if key.lower() == b"content-length" else value) for key, value in headers]
    if isinstance(headers, list):
        headers[:] = changed
    else:
        scope["headers"] = changed
