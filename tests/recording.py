"""A recording OpenAI-compatible server: keeps every request, answers as told."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llmd_agents.hints import Event, Hints, Rejection, decode_events, decode_hints
from llmd_agents.serving import Receive, Scope, Send, in_background, read_body, send_bytes, send_json


@dataclass(frozen=True)
class Recorded:
    """One request as it reached the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def hints(self) -> Hints:
        decoded = decode_hints(self.headers["x-llmd-hints"])
        assert decoded.hints is not None
        assert not decoded.rejected
        assert not decoded.ignored
        return decoded.hints


@dataclass
class Reply:
    """What the server answers to a chat completion."""

    status: int = 200
    text: str = "fine"
    headers: dict[str, str] = field(default_factory=dict)


class RecordingServer:
    """Answers chat completions with `reply(request)`, events with `events_status`, and the rest with 200."""

    def __init__(self, reply: Callable[[Recorded], Reply] = lambda _: Reply()) -> None:
        self.reply = reply
        self.events_status = 202
        self.usage: Callable[[Recorded], tuple[int, int]] = lambda _: (10, 2)
        self.tool_calls: list[Any] | None = None
        self.before_events: Callable[[], object] | None = None
        self.requests: list[Recorded] = []
        self._changed = threading.Condition()

    @property
    def calls(self) -> list[Recorded]:
        return [request for request in self.requests if request.path == "/v1/chat/completions"]

    @property
    def steps(self) -> list[Hints]:
        return [request.hints for request in self.calls]

    @property
    def event_posts(self) -> list[Recorded]:
        return [request for request in self.requests if request.path == "/v1/agent/events"]

    @property
    def events(self) -> list[Event]:
        found: list[Event] = []
        for request in self.event_posts:
            for event in decode_events(request.body):
                assert not isinstance(event, Rejection), event
                found.append(event)
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 10), "nothing of the kind within 10 s"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await read_body(receive, limit=1 << 30)
        request = Recorded(scope["method"], scope["path"], headers, body)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        if request.path == "/v1/agent/events":
            if self.before_events is not None:
                await asyncio.to_thread(self.before_events)
            await send_json(send, self.events_status, {})
        elif request.path == "/v1/chat/completions":
            await self._complete(request, send)
        else:
            await send_json(send, 200, {})

    async def _complete(self, request: Recorded, send: Send) -> None:
        reply = self.reply(request)
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        if reply.status >= 400:
            await send_json(send, reply.status, {"error": {"message": "no", "type": "x"}}, headers)
            return
        base = {"id": "c", "created": 1, "model": request.json["model"]}
        read, written = self.usage(request)
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        if not request.json.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": reply.text}
            if self.tool_calls:
                message["tool_calls"] = self.tool_calls
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
            await send_json(send, 200, whole, headers)
            return
        deltas: list[dict[str, Any]] = [{"content": word} for word in reply.text.split(" ")]
        chunks = [
            {**base, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
            for delta in deltas
        ]
        data = b"".join(b"data: %s\n\n" % json.dumps(chunk).encode() for chunk in chunks)
        await send_bytes(send, 200, data + b"data: [DONE]\n\n", b"text/event-stream", headers)


@contextmanager
def recording_server(
    reply: Callable[[Recorded], Reply] = lambda _: Reply(),
) -> Iterator[tuple[RecordingServer, str]]:
    """Yields the server and the base URL for an OpenAI client."""
    server = RecordingServer(reply)
    with in_background(server) as url:
        yield server, f"{url}/v1"
