"""What a step's own hints say of its context once the step has ended."""

from dataclasses import dataclass

from llmd_agents.hints import Estimate, Hints, Lifetime, Next

from ..expectation import estimate, expected


@dataclass(frozen=True, slots=True)
class Fate:
    """
    Attributes:
        ends: nothing of the branch follows.
        estimate: of the next use; None where nothing was said.
        kept: where a tail that mattered for this step alone begins: the digest before it. None without one.
    """

    ends: bool
    estimate: Estimate | None
    kept: bytes | None


def fate(hints: Hints, now: float) -> Fate:
    """Returns what follows from the hints of a step that has ended now."""
    median, sigma = expected(hints.forecast)
    return Fate(
        ends=hints.forecast is not None and hints.forecast.next is Next.END,
        estimate=None if median is None else estimate(median, sigma, now),
        kept=_kept(hints),
    )


def _kept(hints: Hints) -> bytes | None:
    segments = hints.segments
    at = len(segments)
    while at and segments[at - 1].effective_lifetime is Lifetime.STEP:
        at -= 1
    if at == len(segments):
        return None
    return segments[at - 1].digest if at else hints.extends


def outlives_branch(lifetime: Lifetime | float) -> bool:
    """Returns whether a segment matters beyond the branch that brought it."""
    return lifetime in (Lifetime.PERSISTENT, Lifetime.PROGRAM)
