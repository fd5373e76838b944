"""Servers that are not what one would wish, for the doctor to tell."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llmd_agents.serving import (
    CLOSE_CONNECTION,
    Receive,
    Scope,
    Send,
    in_background,
    lifespan,
    read_body,
    send_bytes,
    send_error,
    send_json,
)

KNOWN = {"model", "messages", "max_tokens", "prompt_cache_key", "stream", "stream_options"}


async def _nothing() -> None: ...


class Awkward:
    """A small OpenAI-compatible server with faults that are switched on by setting attributes."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.key: str | None = None
        self.strict = False
        self.header_max = 1 << 20
        self.breaks_off_on_hints = False
        self.needs_max_completion_tokens = False
        self.models: Any = {"data": [{"id": "m"}]}
        self.usage: Any = {"prompt_tokens": 3000, "completion_tokens": 1}
        self.error: Callable[[], Any] = lambda: "no"
        self.status_of: dict[str, int] = {}
        self.ack: str | None = None
        self.everything: bytes | None = None
        self.endless = False
        self.sleeps: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send, _nothing, _nothing)
            return
        path = scope["path"]
        self.paths.append(f"{scope['method']} {path}")
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await read_body(receive, limit=1 << 24)
        if self.sleeps is not None and path.endswith(self.sleeps):
            await asyncio.sleep(60)
        if self.everything is not None:
            await send_bytes(send, 200, self.everything, b"text/html")
        elif self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            await send_error(send, 401, "who are you?")
        elif path in self.status_of:
            await send_json(send, self.status_of[path], {"error": {"message": self.error()}})
        elif path == "/v1/models":
            await send_json(send, 200, self.models)
        elif path == "/v1/chat/completions":
            await self._chat(scope, headers, json.loads(body), send)
        else:
            await send_error(send, 404, f"no {path}")

    async def _chat(self, scope: Scope, headers: dict[str, str], body: dict[str, Any], send: Send) -> None:
        hints = headers.get("x-llmd-hints")
        if hints is not None and self.breaks_off_on_hints:
            scope["extensions"][CLOSE_CONNECTION]()
        elif sum(map(len, headers.values())) > self.header_max:
            await send_error(send, 431, "headers too long")
        elif self.needs_max_completion_tokens and "max_tokens" in body:
            await send_error(send, 400, "'max_tokens' is not supported: use 'max_completion_tokens' instead")
        elif self.strict and (unknown := body.keys() - KNOWN - {"max_completion_tokens"}):
            await send_error(send, 400, f"Extra inputs are not permitted: {', '.join(sorted(unknown))}")
        elif self.endless:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100):
                await send({"type": "http.response.body", "body": b"[" * (1 << 20), "more_body": True})
        else:
            answer = {"choices": [{"message": {"role": "assistant", "content": "ok"}}], "usage": self.usage}
            extra = [(b"x-llmd-ack", self.ack.encode())] if self.ack is not None else []
            await send_json(send, 200, answer, extra)


@contextmanager
def awkward(**faults: Any) -> Iterator[tuple[Awkward, str]]:
    """Yields a server with these faults and its base URL."""
    server = Awkward()
    for name, value in faults.items():
        assert hasattr(server, name)
        setattr(server, name, value)
    with in_background(server) as url:
        yield server, f"{url}/v1"
