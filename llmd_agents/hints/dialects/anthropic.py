"""Anthropic's prompt cache: `cache_control` on at most four blocks, of its own bodies or of OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..models import Hints, Lifetime, Next
from .breakpoints import Boundary, Mark, boundaries, has_mark, some, with_last_marked, with_mark
from .dialect import Dialect, Surroundings

_MARK: Final = "cache_control"
_MARKS_MAX: Final = 4
_FIVE_MINUTES_S: Final = 300
_BLOCKS: Final = frozenset(
    ("text", "image", "image_url", "document", "search_result", "tool_use", "tool_result")
)
"""Thinking blocks, and what servers' tools say, take no marks."""


def _fields(hints: Hints, body: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    messages, system, tools = body.get("messages"), body.get("system"), body.get("tools")
    if not isinstance(messages, list) or _MARK in body:
        return {}
    if any(has_mark(_MARK, blocks) for blocks in (messages, system, tools)):
        return {}
    found = boundaries(hints, messages)
    last, tail_s = len(messages) - 1, _tail_s(hints)
    if messages and tail_s is not None and (not found or found[-1].position != last):
        found.append(Boundary(last, tail_s))
    fields: dict[str, Any] = {}
    listed = list(messages)
    long = False
    # From the end: what stands before a long-lived mark must not be shorter-lived. One mark is the head's.
    for boundary in reversed(some(found, _MARKS_MAX - 1)):
        wanted = long or _is_long(boundary.lifetime)
        if (changed := with_mark(listed[boundary.position], _mark(wanted))) is not None:
            listed[boundary.position] = changed
            long = wanted
            fields["messages"] = listed
    return fields | _head(hints, system, tools, long=long)


def _tail_s(hints: Hints) -> float | None:
    """Returns how long the end of the prompt will be wanted, in seconds; None if nobody extends it."""
    forecast = hints.forecast
    if forecast is None:
        return 0.0
    return None if forecast.next is Next.END else forecast.after or 0.0


def _head(hints: Hints, system: Any, tools: Any, *, long: bool) -> dict[str, Any]:
    """Marks the system prompt, or without one the tools: they precede it, so one mark covers both."""
    stated = next((s.lifetime for s in hints.segments if s.type == "system_prompt"), None)
    mark = _mark(long or _is_long(stated))
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    if (marked := with_last_marked(blocks, mark)) is not None:
        return {"system": marked}
    if system is None and isinstance(tools, list) and tools:
        last = tools[-1]
        # The form that has its schema under this name is Anthropic's own.
        if isinstance(last, Mapping) and "input_schema" in last:
            return {"tools": [*tools[:-1], {**last, _MARK: _control(long)}]}
    return {}


def _is_long(lifetime: Lifetime | float | None) -> bool:
    """Returns whether five minutes are too short. An hour costs more, so it takes a stated time."""
    if lifetime is None or isinstance(lifetime, str):
        return lifetime == Lifetime.PERSISTENT
    return lifetime > _FIVE_MINUTES_S


def _control(long: bool) -> dict[str, str]:
    return {"type": "ephemeral", "ttl": "1h" if long else "5m"}


def _mark(long: bool) -> Mark:
    def mark(block: Mapping[str, Any]) -> dict[str, Any] | None:
        if block.get("type") not in _BLOCKS:
            return None
        text = block.get("text")
        if block.get("type") == "text" and not (isinstance(text, str) and text.strip()):
            return None  # a mark on empty text is refused
        return {**block, _MARK: _control(long)}

    return mark


ANTHROPIC = Dialect(
    name="anthropic",
    stack="Anthropic",
    receives=(
        (
            "`cache_control`",
            "on at most 4 blocks: system prompt (or tools), documents and checkpoints, where this step's own "
            "messages begin, the last message unless the branch ends. `ttl` is `1h` where more than five "
            "minutes were stated or forecast",
        ),
    ),
    loses="graph, priority, deadline, expected output",
    fields=_fields,
)
