"""Why two prompts part at their first differing unit."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmd_agents.hints.canonical import canonical

from .divergence import Cause, Excerpt
from .excerpts import excerpt_at
from .prompt import Piece, Region, size_of
from .text import common_prefix
from .volatile import volatile_cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .prompt import Unit

_RESULT_ROLES = frozenset({"tool", "function"})
_PLACES = {
    "system": "the system prompt",
    "developer": "the system prompt",
    "user": "a user message",
    "assistant": "an assistant message",
    "tool_definition": "a tool definition",
    "prompt": "the prompt",
    **dict.fromkeys(_RESULT_ROLES, "a tool result"),
}
_VOLATILE = {
    Cause.TIMESTAMP: "a time changed in {}",
    Cause.RANDOM_ID: "an id was made anew in {}",
    Cause.NUMBER: "a number changed in {}",
}
_NOTHING = Piece("", "")


@dataclass(frozen=True, slots=True)
class Reason:
    """A cause and where it stands.

    Attributes:
        unit: the unit that the place belongs to.
        byte: offset in the field's text, in bytes.
        unit_bytes: bytes of the unit's text that are still shared.
    """

    cause: Cause
    what: str
    unit: Unit
    field: str
    byte: int
    unit_bytes: int
    excerpt: Excerpt


def reason_for(old: Sequence[Unit], new: Sequence[Unit], *, kindred: bool) -> Reason:
    """Tells why two prompts part.

    Args:
        old: the earlier prompt from its first differing unit on; not empty. So is `new`.
        kindred: whether the two first units are the same message or tool, changed.
    """
    first = (old[0].region, new[0].region)
    if Region.MODEL in first:
        return _between(Cause.CHANGED_MODEL, "another model is asked", old[0], new[0])
    if Region.TOOLS in first:
        return _tools(old, new, kindred=kindred)
    if Region.ARGUMENTS in first:
        return _arguments(old[0], new[0])
    return _messages(old, new, kindred=kindred)


def _tools(old: Sequence[Unit], new: Sequence[Unit], *, kindred: bool) -> Reason:
    before = [unit for unit in old if unit.region is Region.TOOLS]
    after = [unit for unit in new if unit.region is Region.TOOLS]
    if before and after:
        if canonical(before[0].value) == canonical(after[0].value):
            what = "the keys of a tool definition came in another order"
            return _between(Cause.REORDERED_KEYS, what, before[0], after[0])
        if Counter(canonical(unit.value) for unit in before) == Counter(
            canonical(unit.value) for unit in after
        ):
            what = "the same tools came in another order"
            return _between(Cause.REORDERED_TOOLS, what, before[0], after[0])
        if kindred:
            changed = _edited(before[0], after[0])
            if changed.cause in _VOLATILE:
                return changed
    counts = _tool_changes(before, after)
    return _between(Cause.CHANGED_TOOLS, f"the tools changed: {counts}", old[0], new[0])


def _tool_changes(before: Sequence[Unit], after: Sequence[Unit]) -> str:
    # Names of tools are the program's own and stay out of logs.
    old = {unit.identity: unit.fingerprint for unit in before}
    new = {unit.identity: unit.fingerprint for unit in after}
    edited = sum(new[name] != mark for name, mark in old.items() if name in new)
    counts = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "edited": edited,
    }
    return ", ".join(f"{count} {verb}" for verb, count in counts.items() if count) or "1 edited"


def _arguments(old: Unit, new: Unit) -> Reason:
    before = {piece.field: piece.text for piece in old.pieces}
    after = {piece.field: piece.text for piece in new.pieces}
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    changed = ", ".join(names)
    x, y = before.get(names[0], ""), after.get(names[0], "")
    at = common_prefix(x, y)
    return Reason(
        Cause.CHANGED_ARGUMENTS,
        f"{changed} changed",
        new,
        names[0],
        size_of(y[:at]),
        0,
        excerpt_at(x, at, y, at),
    )


def _messages(old: Sequence[Unit], new: Sequence[Unit], *, kindred: bool) -> Reason:
    a, b = old[0], new[0]
    if b.role == "prompt":
        return _edited(a, b)
    gone = _index_of(b, old)
    come = _index_of(a, new)
    if gone and come:
        return _between(Cause.REORDERED_MESSAGES, "earlier messages came in another order", a, b)
    if gone:
        count = "a message" if gone == 1 else f"{gone:,} messages"
        if all(unit.is_reasoning for unit in old[:gone]):
            return _between(Cause.DROPPED_REASONING, "reasoning of an earlier turn was dropped", a, b)
        verb = "was" if gone == 1 else "were"
        return _between(Cause.DROPPED_MESSAGE, f"{count} of the history {verb} dropped", a, b)
    if come:
        count = "a message was" if come == 1 else f"{come:,} messages were"
        return _between(Cause.INSERTED_MESSAGE, f"{count} inserted into the history", a, b)
    if kindred or a.role == b.role:
        return _edited(a, b)
    return _between(Cause.EDITED_TURN, "a message was replaced by another", a, b)


def _index_of(unit: Unit, units: Sequence[Unit]) -> int:
    """Returns where a unit is found again, or 0: it is known not to be the first."""
    if unit.size == 0:
        return 0
    return next((i for i, other in enumerate(units) if other.fingerprint == unit.fingerprint), 0)


def _edited(a: Unit, b: Unit) -> Reason:
    """Tells what was changed in one unit, at the first text that differs."""
    shared = 0
    for one, other in zip(a.pieces, b.pieces, strict=False):
        if (one.text, one.reasoning) != (other.text, other.reasoning):
            break
        shared += 1
    x = a.pieces[shared] if shared < len(a.pieces) else _NOTHING
    y = b.pieces[shared] if shared < len(b.pieces) else _NOTHING
    before_it = sum(size_of(piece.text) for piece in b.pieces[:shared] if piece.shown)
    place = _PLACES.get(b.role, "a message")
    if x.reasoning and (not y.reasoning or not y.text):
        return Reason(
            Cause.DROPPED_REASONING,
            "reasoning of an earlier turn was dropped",
            b,
            x.field,
            0,
            before_it,
            excerpt_at(x.text, 0, y.text, 0),
        )
    at = common_prefix(x.text, y.text)
    cause, what = _why(x, y, at, a, place)
    here = size_of(y.text[:at])
    shown = here if y.shown else 0
    field = y.field or x.field
    excerpt = excerpt_at(x.text, at, y.text, at)
    return Reason(cause, what, b, field, y.offset + here, before_it + shown, excerpt)


def _why(x: Piece, y: Piece, at: int, old: Unit, place: str) -> tuple[Cause, str]:
    if x.text.startswith("<think>") and not y.text.startswith("<think>"):
        return Cause.DROPPED_REASONING, "reasoning of an earlier turn was dropped"
    if not x.shown or not y.shown:
        return Cause.RANDOM_ID, f"an id was made anew in {place}"
    if _same_but_for_order(x.text, y.text):
        return Cause.REORDERED_KEYS, f"the keys of JSON in {place} came in another order"
    if x.text.split() == y.text.split() or _without_space(x.text) == _without_space(y.text):
        return Cause.REFORMATTED, f"white space changed in {place}"
    if (cause := volatile_cause(x.text, at, y.text, at)) is not None:
        return cause, _VOLATILE[cause].format(place)
    is_result = old.role in _RESULT_ROLES or bool(old.identity)
    if len(y.text) < len(x.text) and (is_result or len(y.text) * 2 <= len(x.text)):
        return Cause.SHORTENED, f"{place} was shortened after it had been sent"
    return Cause.EDITED_TURN, f"{place} was edited after it had been sent"


def _same_but_for_order(x: str, y: str) -> bool:
    if x[:1] not in ("{", "[") or x[:1] != y[:1] or _without_space(x) == _without_space(y):
        return False
    try:
        one, other = json.loads(x), json.loads(y)
        return canonical(one) == canonical(other)
    except (ValueError, RecursionError):
        return False


def _without_space(text: str) -> str:
    return "".join(text.split())


def _between(cause: Cause, what: str, a: Unit, b: Unit) -> Reason:
    """The reason for two units of which none is an edited form of the other, or which have a single text."""
    x, y = _whole(a), _whole(b)
    same = a.region is b.region and a.region is not Region.MESSAGES
    at = common_prefix(x, y) if same else 0
    unit = a if a.region is Region.TOOLS and b.region is not Region.TOOLS else b
    field = unit.pieces[0].field if unit.pieces and unit.message is None else "content"
    shown = size_of(y[:at]) if unit.pieces and unit.pieces[0].shown else 0
    return Reason(cause, what, unit, field, size_of(y[:at]), shown, excerpt_at(x, at, y, at))


def _whole(unit: Unit) -> str:
    text = next((piece.text for piece in unit.pieces if not piece.reasoning), "")
    return f"{unit.role}: {text}" if unit.region is Region.MESSAGES else text
