"""A reply on its way to the wire, before it takes the shape of one API."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .answers import Reply, Usage

BYTES_PER_TOKEN = 4
_ARGUMENTS_PIECE = re.compile(r".{1,16}", re.DOTALL)


@dataclass(frozen=True)
class SpokenCall:
    """A call of a tool as it is sent: `arguments` is JSON text, streamed in `pieces`."""

    id: str
    name: str
    arguments: str

    @property
    def pieces(self) -> list[str]:
        return _ARGUMENTS_PIECE.findall(self.arguments)


@dataclass(frozen=True)
class Spoken:
    """One reply to one request.

    Attributes:
        number: counts the server's replies; ids are made of it.
        body: of the request.
        created: Unix seconds.
    """

    number: int
    body: Mapping[str, Any]
    created: int
    text: str
    pieces: tuple[str, ...]
    calls: tuple[SpokenCall, ...]
    finish_reason: str
    usage: Usage

    @classmethod
    def of(cls, reply: Reply, number: int, body: Mapping[str, Any], created: int) -> "Spoken":
        calls = tuple(
            SpokenCall(call.id or f"call_{number}_{index}", call.name, call.arguments_text)
            for index, call in enumerate(reply.calls)
        )
        said = reply.text + "".join(call.name + call.arguments for call in calls)
        return cls(
            number=number,
            body=body,
            created=created,
            text=reply.text,
            pieces=reply.pieces,
            calls=calls,
            finish_reason=reply.finish_reason or ("tool_calls" if calls else "stop"),
            usage=reply.usage or Usage(_tokens(json.dumps(body)), _tokens(said)),
        )

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))


@dataclass(frozen=True)
class Streamed:
    """A reply as server-sent events: what comes at once, one part for each piece of it, and the end."""

    head: bytes
    pieces: tuple[bytes, ...]
    tail: bytes

    @classmethod
    def of(cls, events: Iterable[tuple[bytes, bool]], tail: bytes) -> "Streamed":
        """Groups events, of which each says whether it begins a piece."""
        parts = [b""]
        for event, begins in events:
            if begins:
                parts.append(event)
            else:
                parts[-1] += event
        return cls(parts[0], tuple(parts[1:]), tail)


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)
