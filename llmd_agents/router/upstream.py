"""One call at one engine: sent, and answered or failed in a way that says whether another may be tried."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import yarl

from llmd_agents.serving import Headers

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
# Engines have no reason to compress, and a compressed stream could not be watched for its usage.
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"accept-encoding"}
_NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"date"}
_UNAVAILABLE = frozenset((502, 503, 504))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it is sent on. `headers` are the client's, without those that belong to its connection."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


class EngineFailed(Exception):
    """The engine gave no usable answer; another may be tried, since nothing has reached the client yet.

    Attributes:
        unreachable: no connection could be made, so the engine is down.
        timed_out: it is still at work on the answer, for all that is known.
        fresh_connection_may_help: it broke a connection that it may merely have grown tired of.
    """

    def __init__(
        self,
        reason: str,
        *,
        unreachable: bool = False,
        timed_out: bool = False,
        fresh_connection_may_help: bool = False,
    ) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        self.timed_out = timed_out
        self.fresh_connection_may_help = fresh_connection_may_help


class StreamBroke(Exception):
    """The engine stopped in the middle of an answer of which the client has a part."""


class Answer:
    """An engine's answer, from its first byte on.

    Attributes:
        whole: whether `body` holds all of it, as with JSON; else `chunks` yields it as it comes.
        events: whether it is a plain server-sent event stream.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, whole: bool, first: bytes) -> None:
        self._response = response
        self._first = first
        self.status = response.status
        self.whole = whole
        self.events = (
            response.content_type == "text/event-stream" and "content-encoding" not in response.headers
        )
        self.headers: Headers = [
            (name.lower(), value) for name, value in response.raw_headers if name.lower() not in _NOT_RETURNED
        ]

    @property
    def body(self) -> bytes:
        return self._first

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the stream as it comes.

        Raises:
            StreamBroke: if the connection ends before the stream does.
        """
        yield self._first
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StreamBroke(str(error) or type(error).__name__) from error

    def close(self) -> None:
        """Gives the connection back, or cuts it if the answer was not read to its end."""
        if not self.whole and not self._response.content.at_eof():
            self._response.close()
        else:
            self._response.release()


def forwarded_headers(
    headers: Headers, api_key: str | None, *, keep_authorization: bool
) -> tuple[tuple[str, str], ...]:
    """Returns the client's headers as an engine should see them: with its own key, not the client's."""
    dropped = _NOT_FORWARDED if keep_authorization and not api_key else _NOT_FORWARDED | {b"authorization"}
    kept = [(_text(name), _text(value)) for name, value in headers if name not in dropped]
    if api_key:
        kept.append(("authorization", f"Bearer {api_key}"))
    return tuple(kept)


def _text(data: bytes) -> str:
    # aiohttp writes header values as UTF-8, so what came as that goes on unchanged.
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


class Sessions:
    """Connections to engines: pooled, and for second attempts fresh.

    An idle connection is dropped sooner than uvicorn does by default (5 s), so that few are found closed.
    """

    IDLE_SECONDS = 4.0

    def __init__(self, *, connect_timeout_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self.pooled = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self.IDLE_SECONDS),
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.fresh = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self.pooled.close()
        await self.fresh.close()


async def ask(sessions: Sessions, url: str, request: Outgoing, *, timeout_s: float) -> Answer:
    """Sends a request to one engine and waits, at most `timeout_s` seconds, for its answer to begin.

    A JSON answer is read whole, so that an engine that dies in the middle of one has sent nothing yet as far
    as the client can tell. A stream may then be silent for `timeout_s` seconds at a time.

    Raises:
        EngineFailed: if it cannot be reached, breaks off, takes too long or says that it is unavailable.
    """
    try:
        return await _ask_once(sessions.pooled, url, request, timeout_s)
    except EngineFailed as failure:
        if not failure.fresh_connection_may_help:
            raise
    return await _ask_once(sessions.fresh, url, request, timeout_s)


async def _ask_once(session: aiohttp.ClientSession, url: str, request: Outgoing, timeout_s: float) -> Answer:
    response: aiohttp.ClientResponse | None = None
    try:
        async with asyncio.timeout(timeout_s):
            response = await session.request(
                request.method,
                yarl.URL(url + request.path, encoded=True),
                data=request.body,
                headers=request.headers,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=session.timeout.sock_connect, sock_read=timeout_s
                ),
            )
            if response.status in _UNAVAILABLE:
                raise EngineFailed(f"status {response.status}")
            whole = response.content_type == "application/json"
            first = await (response.read() if whole else response.content.readany())
            return Answer(response, whole=whole, first=first)
    except BaseException as error:
        if response is not None:
            response.close()
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            raise EngineFailed("cannot be reached", unreachable=True) from error
        if isinstance(error, TimeoutError):
            raise EngineFailed(f"gave no answer within {timeout_s:g} s", timed_out=True) from error
        if isinstance(error, aiohttp.ClientError | OSError | ValueError):
            raise EngineFailed(
                f"broke off: {type(error).__name__}", fresh_connection_may_help=response is None
            ) from error
        raise
