"""What a step's own hints say of its context once the step has ended."""

import math
from dataclasses import dataclass
from typing import Final

from llmd_agents.hints import Estimate, Hints, Lifetime, Next

EXPIRY_SIGMAS: Final = 3.0
EXPIRY_MIN_S: Final = 60.0
DEFAULT_SIGMA: Final = 1.0


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
    forecast = hints.forecast
    ends = forecast is not None and forecast.next is Next.END
    estimate = None
    if forecast is not None and not ends and forecast.after is not None:
        sigma = DEFAULT_SIGMA if forecast.sigma is None else forecast.sigma
        longest = max(forecast.after * math.exp(min(EXPIRY_SIGMAS * sigma, 20.0)), EXPIRY_MIN_S)
        estimate = Estimate(now, forecast.after, sigma, now + longest)
    return Fate(ends, estimate, _kept(hints))


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
