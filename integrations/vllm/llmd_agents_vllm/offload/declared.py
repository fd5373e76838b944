"""What one request's hints say of the context that it leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from llmd_agents.hints import Estimate, Hints, Lifetime, Next
from llmd_agents.hints.limits import ID_MAX_CHARS

from ..carried import KEY, Carried, read
from ..expectation import estimate, expected


class Until(IntEnum):
    """What ends the life of a stretch; each outlives those before it."""

    TIME = 0
    BRANCH = 1
    PROGRAM = 2
    NEVER = 3


@dataclass(frozen=True, slots=True)
class Life:
    """How long a part of the prompt matters.

    Attributes:
        end: of the part, as a share of the prompt; it begins where the one before it ends.
        seconds: from the step's end, for `Until.TIME`; 0 is the step's own life.
    """

    end: float
    until: Until
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a request says of its context.

    Attributes:
        scope: of the tenant (`hints.residency_scope`), where it is told.
        follows: ids of the steps that it comes after.
        ends: no further step comes on its branch.
        median, sigma: of the time until the branch's next step, in seconds; a median of None if not known.
        since: share of the prompt before the first of `lives`, of which this request says nothing.
        lives: what the parts of the prompt after `since` live for, ascending. A part outlives those that need
            it as their beginning.
    """

    scope: str | None
    program: str
    branch: str
    agent: str | None
    step: str
    follows: tuple[str, ...]
    ends: bool
    median: float | None
    sigma: float
    since: float
    lives: tuple[Life, ...]

    def estimate(self, now: float) -> Estimate | None:
        """Returns when the context will be needed next, for a step that ends now."""
        return None if self.median is None else estimate(self.median, self.sigma, now)


def declared(params: Mapping[str, Any] | None) -> Declaration | None:
    """Returns what `kv_transfer_params` declare; None when there is nothing usable. Never raises."""
    carried = read(params)
    if params is None or carried is None or carried.hints is None:
        return None
    hints = carried.hints
    median, sigma = expected(hints.forecast)
    since, lives = _lives(carried, hints)
    return Declaration(
        scope=_scope(params),
        program=hints.program.id,
        branch=hints.step.branch,
        agent=hints.step.agent,
        step=hints.step.id,
        follows=hints.step.parents,
        ends=hints.forecast is not None and hints.forecast.next is Next.END,
        median=median,
        sigma=sigma,
        since=since,
        lives=lives,
    )


def _scope(params: Mapping[str, Any]) -> str | None:
    scope = params[KEY].get("scope")
    return scope if isinstance(scope, str) and 0 < len(scope) <= ID_MAX_CHARS else None


def _lives(carried: Carried, hints: Hints) -> tuple[float, tuple[Life, ...]]:
    """Returns where the listed segments begin, and their lives; by bytes, which tokens go with."""
    if not hints.segments:
        return 1.0, ()
    known = dict(carried.links)
    end = known.get(hints.segments[-1].digest)
    listed = sum(segment.size for segment in hints.segments)
    start = known.get(hints.extends) if hints.extends is not None else 0
    if start is None:
        start = max(end - listed, 0) if end is not None else 0
    total = max(carried.links[-1][1] if carried.links else start + listed, 1)
    lives: list[Life] = []
    at = start
    for segment in hints.segments:
        at = known.get(segment.digest, at + segment.size)
        until, seconds = _until(segment.effective_lifetime)
        lives.append(Life(min(at / total, 1.0), until, seconds))
    for index in range(len(lives) - 2, -1, -1):
        after = lives[index + 1]
        if (lives[index].until, lives[index].seconds) < (after.until, after.seconds):
            lives[index] = Life(lives[index].end, after.until, after.seconds)
    return min(start / total, 1.0), tuple(lives)


def _until(lifetime: Lifetime | float) -> tuple[Until, float]:
    match lifetime:
        case Lifetime.PERSISTENT:
            return Until.NEVER, 0.0
        case Lifetime.PROGRAM:
            return Until.PROGRAM, 0.0
        case Lifetime.BRANCH:
            return Until.BRANCH, 0.0
        case Lifetime.STEP:
            return Until.TIME, 0.0
        case _:
            return Until.TIME, float(lifetime)
