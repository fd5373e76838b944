"""What hints changed for a program, in a sentence of plain words, from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .arms import ARMS

if TYPE_CHECKING:
    from .results import Row
    from .trial import Outcome

ALIKE: Final = 0.01
"""Times that differ by less count as the same."""


def sentence(row: Row) -> str:
    """Returns how a program fared with hints beside the strongest arm without, and what made the
    difference; where it is no better off, why."""
    hinted, without = row.median("hinted"), row.median("strongest_unhinted")
    change = without.completion_s / hinted.completion_s - 1
    if change > ALIKE:
        verdict = f"done {1 - hinted.completion_s / without.completion_s:.0%} sooner"
    elif change < -ALIKE:
        verdict = f"done {hinted.completion_s / without.completion_s - 1:.0%} later"
    else:
        verdict = "done no sooner"
    seeds = len(row.seeds)
    count = f", sooner in {row.faster()} of {seeds} runs" if seeds > 1 else ""
    reasons = _gains(hinted, without) if change > ALIKE else _why_not(hinted, without)
    because = "; ".join(reasons)
    compared = f"{verdict} with hints than in the strongest arm without{count}."
    return f"{compared} {_did(hinted)}{because[:1].upper()}{because[1:]}.{_sooner_still(row, hinted)}"


def _did(hinted: Outcome) -> str:
    """Returns what engines were told and did, as a sentence of its own."""
    parts: list[str] = []
    copies, copied = hinted.copies
    if copies:
        parts.append(f"context was copied from engine to engine {_times(copies)} ({copied:,} tokens)")
    loads, loaded = hinted.loads
    if loads:
        parts.append(
            f"context was loaded from host memory ahead of its use {_times(loads)} ({loaded:,} tokens)"
        )
    if told := _applied(hinted, "retain"):
        parts.append(f"engines heard {_times(told)} when context will be needed again")
    if dead := _applied(hinted, "release"):
        parts.append(f"engines heard {_times(dead)} that context will not be needed again")
    if not parts:
        return "Nothing followed from its hints. "
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}. "


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _gains(hinted: Outcome, without: Outcome) -> list[str]:
    reasons: list[str] = []
    if hinted.recomputed_tokens < without.recomputed_tokens:
        reasons.append(
            f"{without.recomputed_tokens - hinted.recomputed_tokens:,} tokens fewer were computed again"
        )
    if hinted.join_stall_s < without.join_stall_s - 0.1:
        reasons.append(
            f"finished branches waited {hinted.join_stall_s:.1f} s for the last ones instead of "
            f"{without.join_stall_s:.1f} s"
        )
    if hinted.modelled_s < without.modelled_s:
        held_back = (
            ", and long prompts waited while its branches ran"
            if without.join_stall_s or hinted.join_stall_s
            else ""
        )
        reasons.append(
            f"its calls spent {hinted.modelled_s:,.0f} s at the engines instead of "
            f"{without.modelled_s:,.0f} s: less was computed again for others{held_back}"
        )
    return reasons or ["nothing that is counted here explains it: it may be chance"]


def _why_not(hinted: Outcome, without: Outcome) -> list[str]:
    reasons: list[str] = []
    refused = sum(
        counts["rejected"] + counts["unsupported"] + counts["clipped"]
        for kind, counts in hinted.directives.items()
        if kind in ("prefetch", "warm")
    )
    if without.recomputed_tokens == 0:
        reasons.append("without hints nothing was computed again either, so there was nothing to save")
    elif hinted.recomputed_tokens >= without.recomputed_tokens:
        reasons.append(
            f"they saved no work: {hinted.recomputed_tokens:,} tokens were computed again, "
            f"without hints {without.recomputed_tokens:,}"
        )
    else:
        reasons.append(
            f"they saved {without.recomputed_tokens - hinted.recomputed_tokens:,} tokens of work, but its "
            f"calls spent {hinted.modelled_s:,.0f} s at the engines, beside the other programs, instead of "
            f"{without.modelled_s:,.0f} s"
        )
    if refused:
        reasons.append(f"engines could not make, or not make whole, {refused} of the copies asked for")
    if hinted.join_stall_s > without.join_stall_s + 1:
        reasons.append(
            f"finished branches waited {hinted.join_stall_s:.1f} s for the last ones instead of "
            f"{without.join_stall_s:.1f} s"
        )
    return reasons


def _sooner_still(row: Row, hinted: Outcome) -> str:
    """Returns which other arm did better than hints, if one did, and what that cost the other programs."""
    text = ""
    for arm in ("round_robin", "prefix_aware"):
        other = row.median(arm)
        if other.completion_s < hinted.completion_s:
            text += f" Sooner still was {ARMS[arm].title} without hints, with {other.completion_s:,.1f} s"
            if other.background_step_s is not None and hinted.background_step_s is not None:
                text += (
                    f"; the other programs' calls took {other.background_step_s:.1f} s there, and "
                    f"{hinted.background_step_s:.1f} s with hints"
                )
            text += "."
    return text


def _applied(outcome: Outcome, kind: str) -> int:
    counts = outcome.directives.get(kind, {})
    return counts.get("applied", 0) + counts.get("clipped", 0)
