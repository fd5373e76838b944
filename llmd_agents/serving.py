"""What the router and the embedded engine share as HTTP servers: bare ASGI helpers and uvicorn.

No web framework stands between: a proxy's cost per request is what users measure first.
"""

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, TypeAlias

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]


class ClientLeft(Exception):
    """The client closed its connection before the response was complete."""


class BodyTooLarge(Exception):
    """The request body exceeds the server's limit."""


async def read_body(receive: Receive, *, limit: int) -> bytes:
    """Returns the whole request body.

    Raises:
        ClientLeft: if the client disconnects first.
        BodyTooLarge: past `limit` bytes.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks) if len(chunks) > 1 else chunks[0]


async def send_bytes(
    send: Send, status: int, body: bytes, content_type: bytes, headers: Headers | None = None
) -> None:
    start: Headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": start + (headers or [])})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: Any, headers: Headers | None = None) -> None:
    await send_bytes(send, status, orjson.dumps(value), b"application/json", headers)


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Returns an error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def server_sent(data: bytes) -> bytes:
    """Returns one server-sent event with this data, which must hold no line end."""
    return b"data: " + data + b"\n\n"


async def until_client_leaves(receive: Receive) -> None:
    """Returns once the client has closed its connection; for requests whose body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_error(
    send: Send,
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Headers | None = None,
) -> None:
    """Sends an error in OpenAI's shape."""
    await send_json(send, status, error_body(message, kind=kind, param=param, code=code), headers)


async def lifespan(
    receive: Receive,
    send: Send,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Answers the ASGI lifespan protocol with a server's own start and stop."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


BACKLOG = 4096

HEAD_MAX_BYTES = 64 * 1024
"""Longest request line with headers; the parser itself would take any."""


CLOSE_CONNECTION = "llmd-agents.close_connection"
"""In a scope's `extensions`: its `close` closes the request's connection once what was sent has left."""


class _BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose request head does not end within `HEAD_MAX_BYTES`."""

    _head_bytes = 0
    _in_head = True

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()
        # An ASGI extension of ours: an application has no other way to break a connection off.
        self.scope["extensions"] = {CLOSE_CONNECTION: {"close": self.transport.close}}

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        began_in_head = self._in_head
        super().data_received(data)
        # What is both body and the next head's beginning is not counted: a read is bounded itself.
        if began_in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.transport.close()


class _Server(uvicorn.Server):
    """Lets the application end its endless responses before uvicorn waits for all responses to end."""

    on_shutdown: Callable[[], None] | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.on_shutdown is not None:
            self.on_shutdown()
        await super().shutdown(sockets)


def _server(app: App, host: str, port: int, *, shutdown_timeout_s: int = 3) -> tuple[_Server, socket.socket]:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_BoundedHttp,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=shutdown_timeout_s,
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named so that asyncio turns Nagle's algorithm off, which would delay small replies.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on connections are accepted, so that who reads where we listen may connect at once.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    server = _Server(config)
    server.on_shutdown = getattr(app, "close", None)
    return server, listener


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"


def run(
    app: App,
    host: str,
    port: int,
    *,
    name: str,
    shutdown_timeout_s: int = 3,
    until_stdin_closes: bool = False,
) -> None:
    """Serves until interrupted; prints `NAME listening on URL` once connections are accepted.

    Args:
        port: 0 takes any free one.
        shutdown_timeout_s: how long responses under way may go on after the interrupt.
        until_stdin_closes: stop when the parent process closes our standard input or dies.

    Raises:
        OSError: if the address cannot be bound.
    """
    server, listener = _server(app, host, port, shutdown_timeout_s=shutdown_timeout_s)
    print(f"{name} listening on {_url(host, listener)}", flush=True)  # noqa: T201

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while sys.stdin.buffer.read(1):
                pass
        server.should_exit = True

    if until_stdin_closes:
        threading.Thread(target=watch, name="stdin", daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


@contextlib.contextmanager
def in_background(app: App, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serves from a thread of this process; yields the base URL. For tests and notebooks."""
    server, listener = _server(app, host, port)

    async def serve() -> None:
        await server.serve(sockets=[listener])
        # A connection may have been accepted while the server closed the others.
        for _ in range(3):
            await asyncio.sleep(0)
            for connection in list(server.server_state.connections):
                connection.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server", daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        if not server.started:
            raise RuntimeError("the server did not start; its error is logged")
        yield _url(host, listener)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
