"""Replies: the token counts in them, found without holding a stream up."""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from llmd_agents.runtime import Usage

EVENT_MAX_BYTES = 1 << 20

_BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    # Responses calls have other names for the same.
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    usage: _Usage | None = None


class _Reply(_Response):
    choices: list[msgspec.Raw] | None = None
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Reply).decode


_BEFORE_TOKENS: Final = frozenset((b"created", b"queued", b"in_progress"))
_AFTER_TOKENS: Final = frozenset((b"completed", b"incomplete", b"failed"))
"""Events of a Responses stream, after `response.`: those before the first token, and the last."""


def usage_of(body: bytes) -> Usage | None:
    """Returns the token counts of a JSON reply, if it has any."""
    reply = _read(body)
    return _usage(reply.usage) if reply is not None else None


def id_of(body: bytes) -> str | None:
    """Returns the `id` of a JSON reply."""
    reply = _read(body)
    return reply.id if reply is not None else None


class EventSplitter:
    """Cuts a server-sent event stream into events, whatever pieces it arrives in, in linear time.

    Args:
        limit: bytes of one event; a longer one is cut there, so that no stream can fill the memory.
    """

    def __init__(self, *, limit: int = EVENT_MAX_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields each event that is complete now, with its blank line."""
        rest = self._rest
        rest += data
        start = 0
        # A blank line may have begun in what was searched before: it is at most four bytes long.
        for blank in _BLANK.finditer(rest, max(self._searched - 3, 0)):
            yield bytes(rest[start : blank.end()])
            start = blank.end()
        if len(rest) - start > self._limit:
            yield bytes(rest[start:])
            start = len(rest)
        del rest[:start]
        self._searched = len(rest)

    def rest(self) -> bytes:
        """Returns what is left of an event that never ended."""
        return bytes(self._rest)


class UsageFilter:
    """Passes a stream on, noting its usage, and keeping the usage chunk back if it was not asked for.

    Attributes:
        usage: None until the engine has told.
        begun: whether an event has come that tells of the reply itself.
        response_id: of the stream of a Responses call.
    """

    def __init__(self, *, hide: bool) -> None:
        self.usage: Usage | None = None
        self.begun = False
        self.response_id: str | None = None
        self._hide = hide
        self._splitter = EventSplitter()

    def feed(self, data: bytes) -> bytes:
        """Returns the part of the stream that may be sent on now."""
        return b"".join(event for event in self._splitter.feed(data) if self._passes(event))

    def rest(self) -> bytes:
        return self._splitter.rest()

    def _passes(self, event: bytes) -> bool:
        if event.startswith(b"event: response."):
            self._note_response(event)
            return True
        self.begun = True
        if b'"usage"' not in event or not event.startswith(b"data:"):
            return True
        reply = _read(event[5:])
        if reply is None or reply.usage is None:
            return True
        self.usage = _usage(reply.usage)
        return not (self._hide and not reply.choices)

    def _note_response(self, event: bytes) -> None:
        name, _, data = event[len(b"event: response.") :].partition(b"\n")
        name = name.strip()
        self.begun = self.begun or name not in _BEFORE_TOKENS
        if self.response_id is not None and name not in _AFTER_TOKENS:
            return
        reply = _read(data[5:]) if data.startswith(b"data:") else None
        if reply is not None and reply.response is not None:
            self.response_id = reply.response.id or self.response_id
            self.usage = _usage(reply.response.usage) or self.usage


def _read(body: bytes) -> _Reply | None:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _usage(usage: _Usage | None) -> Usage | None:
    if usage is None:
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details
    return Usage(
        usage.prompt_tokens or usage.input_tokens,
        details.cached_tokens if details else None,
        usage.completion_tokens or usage.output_tokens,
    )
