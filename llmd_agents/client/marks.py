"""Marks: what a stretch of context is, said where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from xxhash import xxh3_128_digest

from llmd_agents.hints import Lifetime, Scope, SegmentType, canonical_message

from .duration import seconds
from .recent import Recent

if TYPE_CHECKING:
    from datetime import timedelta

M = TypeVar("M", str, Mapping[str, Any], dict[str, Any], Any)

MARKS_MAX = 8192
"""Marks that a process remembers; those set longest ago are forgotten first."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What was declared of a stretch of context. None stands for the type's default."""

    type: SegmentType | None = None
    lifetime: Lifetime | float | None = None
    scope: Scope | None = None


_marks: Recent[bytes, Mark] = Recent(MARKS_MAX)


def mark(
    content: M,
    type: str,  # noqa: A002  (the contract's own word)
    *,
    lifetime: str | float | timedelta | None = None,
    scope: str | None = None,
) -> M:
    """Declares what a text or a message is; returns it unchanged, to be used where it is made.

        messages.append({"role": "user", "content": mark(manual, "document", lifetime="program")})

    The mark belongs to the content: wherever a message with this text (alone, or as one of its parts), or an
    equal message, is sent by a client that `instrument` has prepared, its segment is declared so. Nothing is
    added to the request. A later mark of the same content takes the place of an earlier one.

    Args:
        content: a text, or a whole message as the API takes it.
        type: `document`, `checkpoint`, `scratch`, `reasoning_branch`, `conversation_turn`, `system_prompt` or
            `tool_definition`.
        lifetime: how long it matters: "step", "branch", "program", "persistent", or a duration such as "10m",
            60 or a timedelta; the type's own by default.
        scope: "program" or "tenant": who may meet it again; the type's own by default.

    Raises:
        ValueError: if `type`, `lifetime` or `scope` has no meaning.
        TypeError: if `content` is neither a text nor a message.
    """
    declared = Mark(
        _member(SegmentType, type, "type"),
        _lifetime(lifetime),
        None if scope is None else _member(Scope, scope, "scope"),
    )
    key = _key(content)
    if key is None:
        raise TypeError(f"expected a text or a message, not {content.__class__.__name__}")
    _marks.put(key, declared)
    return content


def has_marks() -> bool:
    """Returns whether anything is marked at all."""
    return bool(_marks)


def mark_of(item: Any) -> Mark | None:
    """Returns the mark of a message or item that is sent, if it has one."""
    if not isinstance(item, Mapping):
        return _marks.get(_key(item) or b"")
    content = item.get("content") if "content" in item else item.get("output")
    texts = [content] if isinstance(content, str) else []
    if isinstance(content, list):
        texts = [
            text
            for part in content
            if isinstance(part, Mapping) and isinstance(text := part.get("text"), str)
        ]
    for text in texts:
        if (found := _marks.get(_text_key(text))) is not None:
            return found
    return _marks.get(_key(item) or b"")


def _key(content: Any) -> bytes | None:
    if isinstance(content, str):
        return _text_key(content)
    return xxh3_128_digest(b"m" + canonical_message(content)) if isinstance(content, Mapping) else None


def _text_key(text: str) -> bytes:
    return xxh3_128_digest(b"t" + text.encode("utf-8", "surrogatepass"))


def _lifetime(value: str | float | timedelta | None) -> Lifetime | float | None:
    if value is None:
        return None
    if isinstance(value, str) and not value[:1].isdigit():
        return _member(Lifetime, value, "lifetime")
    return seconds(value)


E = TypeVar("E", SegmentType, Lifetime, Scope)


def _member(kind: type[E], value: str, what: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{what}: {value!r} is none of {', '.join(map(str, kind))}") from None
