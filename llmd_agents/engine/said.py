"""A reply before it is sent: the tokens that the engine caches for it, and how a response shows them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmd_agents.hints import canonical_message

from .reply_text import ReplyText
from .script import ScriptedReply
from .tokenizer import BYTES_PER_TOKEN, END, PAD, ROLES


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }

    def as_item(self) -> dict[str, Any]:
        """Returns it as an item of a Responses call, without what the server alone makes up."""
        return {"type": "function_call", "call_id": self.id, "name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True)
class Said:
    """What a reply says.

    Attributes:
        tokens: four bytes each; of tool calls, what the next prompt renders for them.
        calls: the calls of tools that it consists of, if any.
    """

    tokens: bytes
    calls: tuple[ToolCall, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens) // BYTES_PER_TOKEN


RenderCalls: TypeAlias = Callable[[tuple[ToolCall, ...]], bytes]
"""Renders the calls that a reply makes, as the next prompt will."""


def calls_in_one_message(calls: tuple[ToolCall, ...]) -> bytes:
    """Renders calls as a chat completion's next prompt does."""
    return canonical_message({"tool_calls": [call.as_json() for call in calls]})


def calls_as_items(calls: tuple[ToolCall, ...]) -> bytes:
    """Renders calls as the next prompt of a Responses call does: each is an item of its own."""
    items = [canonical_message(call.as_item()) for call in calls]
    between = END + ROLES["assistant"]
    return between.join([*(item + PAD * (-len(item) % BYTES_PER_TOKEN) for item in items[:-1]), items[-1]])


def say(
    words: ReplyText,
    scripted: ScriptedReply | None,
    length: int,
    *,
    tools: bool,
    render_calls: RenderCalls = calls_in_one_message,
) -> Said:
    """Returns a reply of `length` tokens, or longer where what it must say takes more.

    Args:
        words: fills it up.
        scripted: what it must say; None for words alone.
        tools: whether the request lets the model call tools.
        render_calls: how the next prompt renders calls.
    """
    if scripted is not None and scripted.json_object is not None:
        return _object(words, scripted.json_object, length)
    if scripted is not None and scripted.calls and tools:
        return _calls(words, scripted, length, render_calls)
    return Said(words.tokens(length))


def _object(words: ReplyText, value: Mapping[str, Any], length: int) -> Said:
    base = len(_filled(value, "").encode())
    text = _filled(value, _words(words, length * BYTES_PER_TOKEN - base)).encode()
    size = max(length * BYTES_PER_TOKEN, len(text) + -len(text) % BYTES_PER_TOKEN)
    return Said(text.ljust(size))


def _calls(words: ReplyText, scripted: ScriptedReply, length: int, render: RenderCalls) -> Said:
    def calls(filler: str) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(
                f"call_{words.seed:016x}{index:02x}",
                call.name,
                _filled(call.arguments, filler if index == last else "", blanks=True),
            )
            for index, call in enumerate(scripted.calls)
        )

    last = len(scripted.calls) - 1
    said = _fitting(lambda count: calls(_words(words, count)), length * BYTES_PER_TOKEN, render)
    data = render(said)
    return Said(data + PAD * (-len(data) % BYTES_PER_TOKEN), said)


def _fitting(
    calls: Callable[[int], tuple[ToolCall, ...]], size: int, render: RenderCalls
) -> tuple[ToolCall, ...]:
    """Returns the calls with as much filler as brings them to at most `size` rendered bytes."""
    room = size - len(render(calls(0)))
    # A longer text may need another digit or two for its own length.
    for count in range(room, max(room - 4, 0), -1):
        said = calls(count)
        if len(render(said)) <= size:
            return said
    return calls(0)


def _filled(value: Mapping[str, Any], filler: str, *, blanks: bool = False) -> str:
    texts = [key for key, member in value.items() if isinstance(member, str)]
    if not texts:
        return json.dumps(value) + (" " * len(filler) if blanks else "")
    return json.dumps({**value, texts[-1]: value[texts[-1]] + filler})


def _words(words: ReplyText, size: int) -> str:
    if size <= 0:
        return ""
    return words.tokens(-(-size // BYTES_PER_TOKEN)).decode()[:size]
