"""What a scripted server may answer to a model call."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeAlias

from pydantic import BaseModel

from llmd_agents.hints import Ack

Content: TypeAlias = str | Sequence[str] | Mapping[str, Any] | BaseModel


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool that the model asks for.

    Attributes:
        arguments: as a JSON object; a string is sent as it is, so that it may be broken JSON.
        id: made up if None, the same for the same place in the script's replies.
    """

    name: str
    arguments: Mapping[str, Any] | BaseModel | str = field(default_factory=dict)
    id: str | None = None

    def __post_init__(self) -> None:
        as_text(self.arguments)

    @property
    def arguments_text(self) -> str:
        return as_text(self.arguments)


@dataclass(frozen=True)
class Usage:
    """Token counts of one call, as the server tells them.

    Attributes:
        cached: how many of the prompt's tokens came from the prompt cache.
        reasoning: how many of the completion's tokens were reasoning.
    """

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """When an answer leaves.

    Attributes:
        delay: seconds before it begins.
        until: it waits until this event is set, so that a test decides when it leaves.
    """

    delay: float = 0.0
    until: Event | None = None

    def __post_init__(self) -> None:
        if self.delay < 0:
            raise ValueError(f"delay must not be negative, and is {self.delay}")


@dataclass(frozen=True)
class Reply(_Timed):
    """An answer with status 200.

    Attributes:
        content: text; or a list of texts, which are the pieces of a streamed reply; or a mapping or pydantic
            model, which is sent as JSON (structured output).
        calls: tools that the model wants called.
        finish_reason: `stop`, or `tool_calls` if there are calls, unless it is given.
        usage: made up from the lengths of prompt and reply (four bytes a token) if None.
        ack: what the server says of the call's hints, in the header `x-llmd-ack`.
        headers: further response headers.
        piece_delay: seconds before each piece of a streamed reply after the first.
        break_after: the connection is closed after so many pieces of a streamed reply. A reply that is not
            streamed is then not sent at all.
    """

    content: Content = ""
    calls: Sequence[ToolCall] = field(default=(), kw_only=True)
    finish_reason: str | None = field(default=None, kw_only=True)
    usage: Usage | None = field(default=None, kw_only=True)
    ack: Ack | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    piece_delay: float = field(default=0.0, kw_only=True)
    break_after: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.piece_delay < 0:
            raise ValueError(f"piece_delay must not be negative, and is {self.piece_delay}")
        if self.break_after is not None and self.break_after < 0:
            raise ValueError(f"break_after must not be negative, and is {self.break_after}")
        as_text(self.content)
        _check_headers(self.headers)

    @property
    def text(self) -> str:
        return as_text(self.content)

    @property
    def pieces(self) -> tuple[str, ...]:
        """The pieces in which the text is streamed: its words, unless they were given."""
        if isinstance(self.content, str | Mapping | BaseModel):
            return tuple(re.findall(r"\s*\S+\s*\Z|\s*\S+|\s+", self.text))
        return tuple(self.content)


@dataclass(frozen=True)
class Failure(_Timed):
    """An error of the server, in OpenAI's shape.

    Attributes:
        code: `error.code` of the body.
        retry_after: seconds, for the header `retry-after`.
        body: sent in place of an error in OpenAI's shape: anything that JSON can say, or bytes as they are.
    """

    status: int = 500
    message: str = "the script says so"
    code: str | None = field(default=None, kw_only=True)
    retry_after: float | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    body: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 400 <= self.status <= 599:
            raise ValueError(f"a failure has a status from 400 to 599, not {self.status}")
        if not isinstance(self.body, bytes):
            json.dumps(self.body)
        _check_headers(self.headers)


@dataclass(frozen=True)
class Hangup(_Timed):
    """The connection is closed without an answer."""


Answer: TypeAlias = Reply | Failure | Hangup


def as_answer(value: "Answer | Content") -> Answer:
    """Returns an answer as it is, and anything else as the content of a reply."""
    return value if isinstance(value, Reply | Failure | Hangup) else Reply(value)


def as_text(content: Content) -> str:
    """Returns content as the text that the model says.

    Raises:
        TypeError: if it is none, or a mapping that JSON cannot say.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, BaseModel):
        return content.model_dump_json()
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False)
    return "".join(content)


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not name.isascii() or not value.isprintable() or not value.isascii():
            raise ValueError(f"header {name!r} must be printable ASCII, and is {value!r}")
