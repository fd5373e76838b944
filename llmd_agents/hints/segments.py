"""From the links of a chain to typed segments."""

from collections.abc import Callable, Sequence

from .digest import Link
from .drafts import SegmentDraft
from .limits import SEGMENTS_MAX, SIZE_MAX
from .models import Segment, SegmentType

_FIRST = 2
"""Links that stay apart at the start: tools and system prompt, which other programs share."""

_BY_ROLE = {
    None: SegmentType.TOOL_DEFINITION,
    "system": SegmentType.SYSTEM_PROMPT,
    "developer": SegmentType.SYSTEM_PROMPT,
    "reasoning": SegmentType.REASONING_BRANCH,
}


def segments_of(links: Sequence[Link]) -> tuple[Segment, ...]:
    """Returns one segment per link, typed by the message's role.

    An empty head carries no context of its own and gives none. Of a chain with more than `SEGMENTS_MAX`
    links, those after the first few and before the newest become one segment.
    """
    return tuple(draft.checked() for draft in drafts_of(links))


def drafts_of(links: Sequence[Link]) -> tuple[SegmentDraft, ...]:
    """As `segments_of`, for hints that are only written."""
    shown = [link for link in links if link.role is not None or link.size > 0]
    surplus = len(shown) - SEGMENTS_MAX
    merged = 1
    if surplus > 0:
        middle = shown[_FIRST : _FIRST + surplus + 1]
        size, merged = sum(link.size for link in middle), len(middle)
        shown[_FIRST : _FIRST + surplus + 1] = [Link(middle[-1].digest, size, middle[-1].role)]
    drafts = [
        SegmentDraft(_BY_ROLE.get(link.role, SegmentType.CONVERSATION_TURN), link.digest, link.size)
        for link in shown
    ]
    if merged > 1:
        drafts[_FIRST] = drafts[_FIRST]._replace(merged=min(merged, SEGMENTS_MAX))
    return tuple(drafts)


def merge_oldest(
    segments: Sequence[Segment], length: Callable[[Segment], int], room: int
) -> tuple[Segment, ...]:
    """Returns segments that cover the same context, and whose lengths add up to `room` at most: merged until
    they do, or one is left.

    Neighbours that say the same of themselves are merged first, oldest first, so that the boundaries that
    other programs share (tools, system prompt) and the newest ones survive longest.
    """
    kept = [(segment, length(segment)) for segment in segments]
    surplus = sum(cost for _, cost in kept) - room
    for alike in (True, False):
        merged: list[tuple[Segment, int]] = []
        for segment, cost in kept:
            if surplus > 0 and merged and (not alike or _alike(merged[-1][0], segment)):
                last, last_cost = merged.pop()
                joined = _join(last, segment)
                joined_cost = length(joined)
                surplus += joined_cost - last_cost - cost
                merged.append((joined, joined_cost))
            else:
                merged.append((segment, cost))
        kept = merged
    return tuple(segment for segment, _ in kept)


def _alike(a: Segment, b: Segment) -> bool:
    return (
        a.type == b.type
        and a.effective_lifetime == b.effective_lifetime
        and a.effective_scope == b.effective_scope
    )


def _join(a: Segment, b: Segment) -> Segment:
    tokens = None if a.tokens is None or b.tokens is None else min(a.tokens + b.tokens, SIZE_MAX)
    size, merged = min(a.size + b.size, SIZE_MAX), min(a.merged + b.merged, SEGMENTS_MAX)
    return b.model_copy(update={"size": size, "tokens": tokens, "merged": merged})
