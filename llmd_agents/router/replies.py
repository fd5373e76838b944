"""Replies: the token counts in them, found without holding a stream up."""

from collections.abc import Iterator

import msgspec

from llmd_agents.runtime import Usage


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
    """Cuts a server-sent event stream into events, whatever pieces it arrives in."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields each event that is complete now, with its blank line."""
        data = self._rest + data
        start = 0
        while (end := _event_end(data, start)) > 0:
            yield data[start:end]
            start = end
        self._rest = data[start:]

    def rest(self) -> bytes:
        """Returns what is left of an event that never ended."""
        return self._rest


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


def _event_end(data: bytes, start: int) -> int:
    """Returns the index after the next blank line; 0 or less if there is none yet."""
    ends = [
        found + len(mark)
        for mark in (b"\n\n", b"\r\n\r\n", b"\r\r")
        if (found := data.find(mark, start)) >= 0
    ]
    return min(ends, default=0)


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
