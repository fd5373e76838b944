"""Replies: the token counts in them, found without holding a stream up."""

import re
from collections.abc import Iterator

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


class _Reply(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Reply).decode


def usage_of(body: bytes) -> Usage | None:
    """Returns the token counts of a JSON reply, if it has any."""
    reply = _read(body)
    return _usage(reply) if reply is not None else None


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
    """Passes a chat stream on, noting its usage, and keeping the usage chunk back if it was not asked for."""

    def __init__(self, *, hide: bool) -> None:
        self.usage: Usage | None = None
        self._hide = hide
        self._splitter = EventSplitter()

    def feed(self, data: bytes) -> bytes:
        """Returns the part of the stream that may be sent on now."""
        return b"".join(event for event in self._splitter.feed(data) if self._passes(event))

    def rest(self) -> bytes:
        return self._splitter.rest()

    def _passes(self, event: bytes) -> bool:
        if b'"usage"' not in event or not event.startswith(b"data:"):
            return True
        reply = _read(event[5:])
        if reply is None or reply.usage is None:
            return True
        self.usage = _usage(reply)
        return not (self._hide and not reply.choices)


def _read(body: bytes) -> _Reply | None:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _usage(reply: _Reply) -> Usage | None:
    usage = reply.usage
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    return Usage(usage.prompt_tokens, details.cached_tokens if details else None, usage.completion_tokens)
