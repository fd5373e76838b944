"""Engines with nothing of this project in them, as a router finds most: model calls and metrics."""

import json
from dataclasses import dataclass
from typing import Any

from llmd_agents.engine import EngineProfile, EngineServer
from llmd_agents.router.routes import GENERATING
from llmd_agents.serving import Receive, Scope, Send, read_body, send_bytes
from tests.stack.servers import FAST, given_again, small_profile

CHAT = "/v1/chat/completions"
WARM_UP = b"x-llmd-warm-up"


@dataclass
class Seen:
    """A model call as it reached an engine."""

    path: str
    headers: dict[bytes, bytes]
    body: Any

    @property
    def warm_up(self) -> bool:
        return WARM_UP in self.headers


class PlainEngine:
    """An embedded engine whose interface for its cache is 404.

    Attributes:
        plugged: whether the interface is there after all.
        priorities: whether a priority that is not 0 is taken, rather than refused.
        metrics: what `/metrics` says instead; a status, a text or None.
        seen: the model calls that came.
    """

    def __init__(
        self, *, priorities: bool = True, time_scale: float = FAST, profile: EngineProfile | None = None
    ) -> None:
        self.server = EngineServer(profile or small_profile(), time_scale=time_scale)
        self.plugged = False
        self.priorities = priorities
        self.metrics: int | bytes | None = None
        self.scrapes = 0
        self.seen: list[Seen] = []

    @property
    def calls(self) -> list[Seen]:
        return [seen for seen in self.seen if not seen.warm_up]

    @property
    def warm_ups(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.warm_up]

    def close(self) -> None:
        self.server.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith("/v1/agent/") and not self.plugged:
                await send_bytes(send, 404, b'{"detail":"Not Found"}', b"application/json")
                return
            if path == "/metrics":
                self.scrapes += 1
                if self.metrics is not None:
                    status = self.metrics if isinstance(self.metrics, int) else 200
                    text = self.metrics if isinstance(self.metrics, bytes) else b""
                    await send_bytes(send, status, text, b"text/plain")
                    return
            if path in GENERATING and scope["method"] == "POST":
                data = await read_body(receive, limit=1 << 24)
                self.seen.append(Seen(path, dict(scope["headers"]), json.loads(data)))
                if self.seen[-1].body.get("priority") and not self.priorities:
                    message = (
                        b'{"error": {"message": "Got priority -40 but Priority scheduling is not enabled."}}'
                    )
                    await send_bytes(send, 400, message, b"application/json")
                    return
                receive = given_again(data, receive)
        await self.server(scope, receive, send)
