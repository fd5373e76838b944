"""From a request body to the texts that a provider's template puts one after another.

A prompt is a list of units (the model, each tool, the arguments, each message), a unit is a list of pieces
of text. Pieces are what reaches the template: strings as they are, other JSON values in the order of keys in
which they were sent. What no template shows is left out: cache marks, absent members, a stored item's own id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any

from xxhash import xxh3_128_digest

from llmd_agents.hints.canonical import ADVISORY_KEYS
from llmd_agents.hints.context_items import is_response, response_item
from llmd_agents.hints.digest import TEMPLATE_ARGUMENTS

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_ARGUMENTS = (*sorted(TEMPLATE_ARGUMENTS), "reasoning", "thinking")
_REASONING_ITEM = frozenset({"summary", "content", "encrypted_content"})
_NOT_SHOWN = frozenset({"role", "type", "content", "tool_calls", *REASONING_FIELDS, *ADVISORY_KEYS})
"""Members of a message that are read elsewhere, or that no template shows."""

_NAME_MAX = 40
_PROMPT_LINES_MAX = 20_000


class UnreadablePrompt(ValueError):
    """The body is no request whose prompt could be read."""


class Region(Enum):
    """The parts of a prompt, in the order in which they decide what is cached."""

    MODEL = auto()
    TOOLS = auto()
    ARGUMENTS = auto()
    MESSAGES = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """A text at a path of its message.

    Attributes:
        reasoning: whether it is a model's reasoning.
        offset: bytes of the field that stand before this text; not 0 only for lines of one long prompt.
        shown: whether it becomes part of the prompt's text; ids and template arguments do not.
    """

    field: str
    text: str
    reasoning: bool = False
    offset: int = 0
    shown: bool = True


@dataclass(frozen=True)
class Unit:
    """What is compared as a whole first: a tool, a message, a line of a plain prompt.

    Attributes:
        message: index in `messages` or `input`; None for what stands outside.
        identity: what stays when the rest is edited (a tool's name, a tool call's id); "" if nothing.
        value: of a tool, its definition, for telling another order of keys from other values.
    """

    region: Region
    message: int | None
    role: str
    pieces: tuple[Piece, ...]
    identity: str = ""
    value: Any = None

    @cached_property
    def fingerprint(self) -> bytes:
        parts = [self.role, *(f"{piece.reasoning:d}{len(piece.text)}:{piece.text}" for piece in self.pieces)]
        return xxh3_128_digest("\0".join(parts).encode("utf-8", "surrogatepass"))

    @cached_property
    def size(self) -> int:
        """Bytes of its text."""
        return sum(size_of(piece.text) for piece in self.pieces if piece.shown)

    @property
    def is_reasoning(self) -> bool:
        return self.role == "reasoning" or (
            bool(self.pieces) and all(piece.reasoning for piece in self.pieces)
        )


@dataclass(frozen=True, slots=True)
class Prompt:
    """A whole prompt.

    Attributes:
        lineage: whether an earlier response, stored at the server, stands before it.
    """

    model: str
    units: tuple[Unit, ...]
    lineage: bool = False


def size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def parse_body(body: bytes | str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a request body as parsed JSON.

    Raises:
        UnreadablePrompt: if it is not a JSON object.
    """
    if isinstance(body, Mapping):
        return body
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadablePrompt(f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise UnreadablePrompt("the body is not a JSON object")
    return parsed


def read_prompt(body: Mapping[str, Any]) -> Prompt:
    """Reads the prompt of a body for chat completions, completions, Responses or Anthropic's messages.

    Raises:
        UnreadablePrompt: if it is none of these, or not of their shape.
    """
    try:
        units = [*_head(body), *_messages(body)]
    except (TypeError, RecursionError, ValueError) as error:
        raise error if isinstance(error, UnreadablePrompt) else UnreadablePrompt(str(error)) from None
    model = body.get("model")
    lineage = body.get("previous_response_id") is not None or body.get("conversation") is not None
    return Prompt(model if isinstance(model, str) else "", tuple(units), lineage)


def tool_texts(body: Mapping[str, Any]) -> list[str]:
    """Returns tools and functions as compact JSON, in the order in which they and their keys were sent."""
    return [
        _compact(_without_marks(tool))
        for name in ("tools", "functions")
        for tool in _array(body.get(name), name)
    ]


def _head(body: Mapping[str, Any]) -> list[Unit]:
    model = body.get("model")
    text = model if isinstance(model, str) else ""
    units = [Unit(Region.MODEL, None, "model", (Piece("model", text, shown=False),))]
    for name in ("tools", "functions"):
        for index, tool in enumerate(_array(body.get(name), name)):
            kept = _without_marks(tool)
            piece = Piece(f"{name}[{index}]", _compact(kept))
            units.append(Unit(Region.TOOLS, None, "tool_definition", (piece,), _tool_name(tool), kept))
    arguments = tuple(
        Piece(name, value if isinstance(value, str) else _compact(value), shown=False)
        for name in _ARGUMENTS
        if name != "functions"
        and (value := body.get(name)) is not None
        # The other choices do not change the prompt; without tools in the prompt there is nothing to choose.
        and (name != "tool_choice" or value == "none")
    )
    units.append(Unit(Region.ARGUMENTS, None, "argument", arguments))
    return units


def _messages(body: Mapping[str, Any]) -> list[Unit]:
    if is_response(body):
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else _array(given, "input")
        return [
            *_instructions("instructions", body.get("instructions")),
            *(_message(index, *response_item(_object(index, item))) for index, item in enumerate(items)),
        ]
    if body.get("messages") is not None:
        messages = _array(body["messages"], "messages")
        return [
            *_instructions("system", body.get("system")),  # of Anthropic's messages
            *(_message(i, _object(i, item).get("role"), item) for i, item in enumerate(messages)),
        ]
    if body.get("prompt") is not None:
        prompt = body["prompt"]
        if isinstance(prompt, list | tuple) and len(prompt) == 1:
            prompt = prompt[0]
        if isinstance(prompt, str):
            return _lines(prompt)
        raise UnreadablePrompt("a prompt of token ids, or of several texts, is not read")
    raise UnreadablePrompt("the body has neither messages nor input nor prompt")


def _instructions(name: str, value: Any) -> list[Unit]:
    if value is None:
        return []
    pieces = _content(value, name)
    return [Unit(Region.MESSAGES, None, "system", pieces)] if pieces else []


def _message(index: int, role: Any, item: Mapping[str, Any]) -> Unit:
    kind = item.get("type")
    skipped = _NOT_SHOWN
    pieces = [
        Piece(name, _text(value), reasoning=True)
        for name in (*REASONING_FIELDS, *(_REASONING_ITEM if kind == "reasoning" else ()))
        if (value := item.get(name)) is not None
    ]
    if kind == "reasoning":
        skipped |= _REASONING_ITEM
    elif (content := item.get("content")) is not None:
        pieces += _content(content, "content")
    pieces += _calls(item.get("tool_calls"))
    identity = _call_id(item.get("content"), "tool_use_id", "id") or _call_id(item.get("tool_calls"), "id")
    for name in sorted(key for key in item if isinstance(key, str) and key not in skipped):
        if (value := item[name]) is None:
            continue
        is_id = name in ("tool_call_id", "call_id")
        if is_id and isinstance(value, str):
            identity = f"{kind or ''} {value}"
        pieces.append(Piece(_name(name), _text(value), shown=not is_id))
    return Unit(Region.MESSAGES, index, _name(role) if isinstance(role, str) else "", tuple(pieces), identity)


def _call_id(parts: Any, *names: str) -> str:
    first = parts[0] if isinstance(parts, list | tuple) and parts else None
    if not isinstance(first, Mapping):
        return ""
    return next((value for name in names if isinstance(value := first.get(name), str)), "")


def _content(content: Any, field: str) -> tuple[Piece, ...]:
    if isinstance(content, str):
        return (Piece(field, content),)
    if not isinstance(content, list | tuple):
        return (Piece(field, _compact(content)),)
    pieces = [piece for index, part in enumerate(content) for piece in _part(part, f"{field}[{index}]")]
    if len(content) == 1 and len(pieces) == 1 and pieces[0].field == f"{field}[0].text":
        # The same prompt as the bare string; clients switch between the two forms to set a cache mark.
        return (Piece(field, pieces[0].text),)
    return tuple(pieces)


def _part(part: Any, field: str) -> list[Piece]:
    if not isinstance(part, Mapping):
        return [Piece(field, _text(part))]
    kind = part.get("type")
    if isinstance(text := part.get("text"), str):
        return [Piece(f"{field}.text", text)]
    if isinstance(text := part.get("thinking"), str):
        return [Piece(f"{field}.thinking", text, reasoning=True)]
    if kind == "redacted_thinking":
        return [Piece(f"{field}.data", _text(part.get("data")), reasoning=True)]
    if kind == "tool_use":
        return [
            Piece(f"{field}.id", _text(part.get("id")), shown=False),
            Piece(f"{field}.name", _text(part.get("name"))),
            Piece(f"{field}.input", _text(part.get("input"))),
        ]
    if kind == "tool_result":
        identity = Piece(f"{field}.tool_use_id", _text(part.get("tool_use_id")), shown=False)
        return [identity, *_content(part.get("content", ""), f"{field}.content")]
    return [Piece(field, _compact(_without_marks(part)))]


def _calls(calls: Any) -> list[Piece]:
    pieces: list[Piece] = []
    for index, call in enumerate(calls if isinstance(calls, list | tuple) else ()):
        field = f"tool_calls[{index}]"
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            pieces.append(Piece(field, _compact(call)))
            continue
        pieces.append(Piece(f"{field}.function.name", _text(function.get("name"))))
        pieces.append(Piece(f"{field}.function.arguments", _text(function.get("arguments"))))
        pieces.append(Piece(f"{field}.id", _text(call.get("id")), shown=False))
    return pieces


def _lines(prompt: str) -> list[Unit]:
    lines = prompt.split("\n")
    if len(lines) > _PROMPT_LINES_MAX:
        lines[_PROMPT_LINES_MAX:] = ["\n".join(lines[_PROMPT_LINES_MAX:])]
    units: list[Unit] = []
    offset = 0
    for index, line in enumerate(lines):
        text = line if index == len(lines) - 1 else line + "\n"
        units.append(Unit(Region.MESSAGES, None, "prompt", (Piece("prompt", text, offset=offset),)))
        offset += size_of(text)
    return units


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _without_marks(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: member for key, member in value.items() if member is not None and key not in ADVISORY_KEYS}


def _array(value: Any, name: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UnreadablePrompt(f"{name} is not an array")
    return value


def _object(index: int, item: Any) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise UnreadablePrompt(f"message {index} is not an object")
    return item


def _tool_name(tool: Any) -> str:
    if not isinstance(tool, Mapping):
        return ""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else tool.get("name")
    return name if isinstance(name, str) else ""


def _name(text: str) -> str:
    """Names of members and roles come from the body; only those that look like one are repeated."""
    return text if len(text) <= _NAME_MAX and text.isascii() and text.isidentifier() else "other"
