"""Compares a prompt with an earlier one: does it extend it, and if not, where and why does it part?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from .causes import Reason, reason_for
from .divergence import Cause, Compaction, Divergence
from .prompt import Region, size_of
from .text import common_prefix, common_suffix, similar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .prompt import Prompt, Unit

BYTES_PER_TOKEN = 4.0
"""What is assumed until a server's token counts tell better."""

_SYSTEM_ROLES = frozenset({"system", "developer"})
_ALSO_ACROSS_CONVERSATIONS = frozenset({Cause.TIMESTAMP, Cause.REORDERED_TOOLS, Cause.REORDERED_KEYS})
"""Flaws of a program's head that cost every conversation, whatever it is about."""

_SAME_TURN = frozenset({Cause.REORDERED_KEYS, Cause.REFORMATTED})
"""Changes of which only a text's other form can be the cause, however unlike the two look."""

_REWRITTEN = frozenset({Cause.SHORTENED, Cause.EDITED_TURN, Cause.CHANGED_TOOLS})
"""Changes behind which only what is the same to the end counts as being there again."""

_MOVED = frozenset(
    {Cause.DROPPED_MESSAGE, Cause.DROPPED_REASONING, Cause.INSERTED_MESSAGE, Cause.REORDERED_MESSAGES}
)
"""Changes after which the first differing message is found again elsewhere."""


class Relation(Enum):
    """How a prompt relates to an earlier one, where nothing is lost."""

    EXTENDS = auto()
    WITHIN = auto()
    UNRELATED = auto()


@dataclass(frozen=True, slots=True)
class _Rest:
    """What stands from the first differing unit on, in both prompts, and what of it is in both."""

    old: Sequence[Unit]
    new: Sequence[Unit]
    again: Counter[bytes]

    def bytes_again(self) -> int:
        left = self.again.copy()
        total = 0
        for unit in self.new:
            if left[unit.fingerprint] > 0:
                left[unit.fingerprint] -= 1
                total += unit.size
        return total

    def turns_again(self) -> int:
        turns = Counter(unit.fingerprint for unit in self.new if _is_turn(unit))
        return (turns & self.again).total()


def compare(
    earlier: Prompt, later: Prompt, *, branch: str = "", bytes_per_token: float = BYTES_PER_TOKEN
) -> Divergence | Compaction | Relation:
    """Compares two prompts.

    Two that part are one conversation's only if there is evidence for it: turns behind the divergence that
    are in both, or an edited turn after which the conversation went on. Siblings, which share a beginning and
    go their own ways, are unrelated.
    """
    if later.lineage or earlier.lineage:
        return Relation.EXTENDS if later.lineage else Relation.UNRELATED
    shared = _shared_units(earlier.units, later.units)
    rest = _Rest(earlier.units[shared:], later.units[shared:], Counter())
    if not rest.old or (len(rest.old) == 1 and rest.new and _grows(rest.old[0], rest.new[0])):
        return Relation.EXTENDS
    if not rest.new or (len(rest.new) == 1 and _grows(rest.new[0], rest.old[0])):
        return Relation.WITHIN
    again = Counter(unit.fingerprint for unit in rest.old) & Counter(unit.fingerprint for unit in rest.new)
    rest = _Rest(rest.old, rest.new, again)
    kept = sum(unit.size for unit in later.units[:shared])
    turns_before, turns_after = _turns(earlier.units), _turns(later.units)
    if rest.turns_again() and turns_after * 2 <= turns_before:
        dropped = sum(unit.size for unit in rest.old) - rest.bytes_again()
        return Compaction(branch, later.model, turns_before, turns_after, kept, max(dropped, 0))
    kindred = _kindred(rest.old[0], rest.new[0])
    reason = reason_for(rest.old, rest.new, kindred=kindred)
    lost = rest.bytes_again()
    if kindred and not again[rest.new[0].fingerprint]:
        lost += _bytes_again_within(rest.old[0], rest.new[0], reason)
    if lost <= 0 or not _one_conversation(rest, reason, lost, kindred=kindred):
        return Relation.UNRELATED
    return Divergence(
        branch=branch,
        model=later.model,
        cause=reason.cause,
        message=reason.unit.message,
        role=reason.unit.role,
        field=reason.field,
        byte=reason.byte,
        what=reason.what,
        kept_bytes=kept + reason.unit_bytes,
        lost_bytes=lost,
        lost_tokens=max(round(lost / bytes_per_token), 1),
        excerpt=reason.excerpt,
    )


def _one_conversation(rest: _Rest, reason: Reason, lost: int, *, kindred: bool) -> bool:
    turns = rest.turns_again()
    old_turns = _turns(rest.old)
    went_on = len(rest.new) > len(rest.old)
    first = rest.old[0]
    if first.region is Region.MODEL:
        # The same question to another model is a second opinion; a conversation that goes on there is not.
        return went_on and turns * 2 >= max(old_turns, 1)
    if reason.cause in _ALSO_ACROSS_CONVERSATIONS and (
        first.region is Region.TOOLS or first.role in _SYSTEM_ROLES
    ):
        return True
    if first.region is not Region.MESSAGES:
        return turns * 2 >= max(old_turns, 1)
    if first.role == "prompt":
        # Lines of a template reappear in every prompt made from it: only nearly all of them are evidence.
        return kindred and lost * 5 >= 4 * sum(unit.size for unit in rest.old)
    if kindred or reason.cause in _SAME_TURN:
        return turns >= 1 or went_on
    if reason.cause in _MOVED and went_on and turns >= 1 and turns * 2 >= old_turns:
        return True
    return turns >= 2 and turns * 2 >= old_turns - 1


def _shared_units(old: Sequence[Unit], new: Sequence[Unit]) -> int:
    count = 0
    for one, other in zip(old, new, strict=False):
        if one.region is not other.region or one.fingerprint != other.fingerprint:
            break
        count += 1
    return count


def _grows(short: Unit, long: Unit) -> bool:
    """Whether a last message was merely continued: its text is a prefix of the other's."""
    if short.region is not long.region or short.role != long.role:
        return False
    if not short.pieces:
        return True
    *before, last = short.pieces
    if len(long.pieces) <= len(before):
        return False
    same = all(one.text == other.text for one, other in zip(before, long.pieces, strict=False))
    return same and long.pieces[len(before)].text.startswith(last.text)


def _kindred(old: Unit, new: Unit) -> bool:
    """Whether two units are one and the same message or tool, of which something was changed."""
    if old.region is not new.region or old.role != new.role:
        return False
    if old.identity or new.identity:
        if old.identity == new.identity:
            return True
        if old.region is Region.TOOLS:
            return False
    return similar(_text(old), _text(new))


def _bytes_again_within(old: Unit, new: Unit, reason: Reason) -> int:
    """Returns how much of a changed unit's text, behind the change, was in the earlier one too."""
    if reason.cause not in _REWRITTEN:
        return max(min(old.size, new.size) - reason.unit_bytes, 0)
    x, y = _text(old), _text(new)
    start = common_prefix(x, y)
    same = common_suffix(x, y, min(len(x), len(y)) - start)
    return size_of(y[len(y) - same :])


def _text(unit: Unit) -> str:
    return "\0".join(piece.text for piece in unit.pieces if piece.shown and not piece.reasoning)


def _is_turn(unit: Unit) -> bool:
    return unit.region is Region.MESSAGES and unit.role not in _SYSTEM_ROLES and unit.size > 0


def _turns(units: Sequence[Unit]) -> int:
    return sum(map(_is_turn, units))
