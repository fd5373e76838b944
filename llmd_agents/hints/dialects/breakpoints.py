"""Where cache marks of providers belong in a request body, and how to set them on its content blocks.

A provider caches up to a mark. Marks are worth having where prompts part: after what all programs share (the
system prompt), where this step's own context begins (what its fork or its last turn had sent), and after
context that was declared to matter for long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..models import Hints, Lifetime, Segment, SegmentType

Mark: TypeAlias = Callable[[Mapping[str, Any]], dict[str, Any] | None]
"""Returns a content block with its mark set; None if that kind of block cannot have one."""

_SYSTEM = frozenset(("system", "developer"))
_LONG = frozenset((SegmentType.DOCUMENT, SegmentType.CHECKPOINT))


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of a message after which a mark belongs.

    Attributes:
        position: index of the message.
        lifetime: stated for the context that ends here; None where only the type's default applies.
    """

    position: int
    lifetime: Lifetime | float | None = None


def boundaries(hints: Hints, messages: Sequence[Any]) -> list[Boundary]:
    """Returns where marks belong, in the order of the prompt.

    The hints' segments are the last messages of the body, one a link, so they are counted from its end.
    """
    found: dict[int, Boundary] = {}
    system = -1
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in _SYSTEM:
            break
        system += 1
    if system >= 0:
        found[system] = Boundary(system)
    position = len(messages) - 1
    for segment in reversed(hints.segments):
        if position < 0:
            break
        if _is_long(segment) or (position == system and segment.lifetime is not None):
            found[position] = Boundary(position, segment.lifetime)
        position -= segment.merged
    if hints.extends is not None and 0 <= position < len(messages):
        found.setdefault(position, Boundary(position))
    return [found[position] for position in sorted(found)]


def _is_long(segment: Segment) -> bool:
    return segment.type in _LONG and segment.effective_lifetime in (Lifetime.PROGRAM, Lifetime.PERSISTENT)


def some(found: list[Boundary], most: int) -> list[Boundary]:
    """Returns at most `most` of them: the first, which most programs share, and the latest."""
    return found if len(found) <= most else [found[0], *found[len(found) - most + 1 :]]


def has_mark(key: str, blocks: Any, depth: int = 3) -> bool:
    """Returns whether the caller has set marks himself: on messages, their blocks, or blocks of these."""
    return (
        depth > 0
        and isinstance(blocks, list)
        and any(
            isinstance(block, Mapping) and (key in block or has_mark(key, block.get("content"), depth - 1))
            for block in blocks
        )
    )


def with_mark(message: Any, mark: Mark, text_type: str = "text") -> dict[str, Any] | None:
    """Returns a message whose last block that can be marked is; None if there is none.

    Text that stands alone becomes a block, as marks are members of blocks.
    """
    if not isinstance(message, Mapping):
        return None
    content = message.get("content")
    blocks = [{"type": text_type, "text": content}] if isinstance(content, str) else content
    marked = with_last_marked(blocks, mark)
    return None if marked is None else {**message, "content": marked}


def with_last_marked(blocks: Any, mark: Mark) -> list[Any] | None:
    """Returns a list of blocks whose last that can be marked is; None if there is none."""
    if not isinstance(blocks, list):
        return None
    for index in range(len(blocks) - 1, -1, -1):
        if isinstance(blocks[index], Mapping) and (marked := mark(blocks[index])) is not None:
            return [*blocks[:index], marked, *blocks[index + 1 :]]
    return None
