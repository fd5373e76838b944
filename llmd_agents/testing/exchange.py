"""One request, and the answer to it as it goes out: in time, in pieces, or not to its end."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from llmd_agents import serving
from llmd_agents.hints import ACK_HEADER, encode_ack
from llmd_agents.serving import Receive, Scope, Send

from .answers import Failure, Reply
from .request import RecordedRequest
from .spoken import Streamed

_POLL_SECONDS = 0.005


class Exchange:
    """One request and the answer to it, which the client may not wait for."""

    def __init__(
        self,
        request: RecordedRequest,
        stopping: threading.Event,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.request = request
        self.complete = False
        self._stopping = stopping
        self._send = send
        self._receive = receive
        self._close: Callable[[], None] = scope["extensions"][serving.CLOSE_CONNECTION]["close"]

    async def pause(self, seconds: float, until: threading.Event | None = None) -> bool:
        """Waits; returns False if the client has left or the server stops, so that nothing is to be sent."""
        if seconds <= 0 and until is None:
            return True
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        left = asyncio.ensure_future(serving.until_client_leaves(self._receive))
        try:
            while (wait := end - loop.time()) > 0 or (until is not None and not until.is_set()):
                await asyncio.wait((left,), timeout=min(wait, _POLL_SECONDS) if wait > 0 else _POLL_SECONDS)
                if left.done() or self._stopping.is_set():
                    return False
            return True
        finally:
            left.cancel()
            with suppress(asyncio.CancelledError):
                await left

    async def send_json(self, status: int, value: Any, headers: serving.Headers | None = None) -> None:
        self.request.status = status
        # Unlike orjson, this can say again whatever a request said, lone surrogates included.
        data = json.dumps(value).encode()
        await serving.send_bytes(self._send, status, data, b"application/json", headers)
        self.complete = True

    async def refuse(self, status: int, message: str, *, code: str | None = None) -> None:
        await self.send_json(status, _error(status, message, code))

    async def hang_up(self) -> None:
        """Closes the connection, whatever has been sent of the answer."""
        self._close()
        await serving.until_client_leaves(self._receive)

    async def reply(self, reply: Reply, value: dict[str, Any]) -> None:
        """Sends a whole reply, or breaks off."""
        if reply.break_after is not None:
            await self.hang_up()
        else:
            await self.send_json(200, value, _reply_headers(reply))

    async def stream(self, reply: Reply, streamed: Streamed) -> None:
        """Sends a reply in pieces, as far as it is to go."""
        headers: serving.Headers = [(b"content-type", b"text/event-stream"), *_reply_headers(reply)]
        self.request.status = 200
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send_part(streamed.head)
        for index, piece in enumerate(streamed.pieces[: reply.break_after]):
            if index and not await self.pause(reply.piece_delay):
                await self.hang_up()
                return
            await self._send_part(piece)
        if reply.break_after is not None:
            await self.hang_up()
        else:
            await self._send({"type": "http.response.body", "body": streamed.tail, "more_body": False})
            self.complete = True

    async def fail(self, failure: Failure) -> None:
        headers = dict(failure.headers)
        if failure.retry_after is not None:
            headers["retry-after"] = f"{failure.retry_after:g}"
        if isinstance(failure.body, bytes):
            self.request.status = failure.status
            content_type = headers.pop("content-type", "text/plain").encode("latin-1")
            await serving.send_bytes(
                self._send, failure.status, failure.body, content_type, _encoded(headers)
            )
            self.complete = True
            return
        body = failure.body
        if body is None:
            body = _error(failure.status, failure.message, failure.code)
        await self.send_json(failure.status, body, _encoded(headers))

    async def _send_part(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


def _error(status: int, message: str, code: str | None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return serving.error_body(message, kind=kind, code=code)


def _reply_headers(reply: Reply) -> serving.Headers:
    headers = dict(reply.headers)
    if reply.ack is not None:
        headers[ACK_HEADER] = encode_ack(reply.ack)
    return _encoded(headers)


def _encoded(headers: Mapping[str, str]) -> serving.Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
