"""How long waits of one kind take, learned also from those that are not over yet.

Waits that have ended say too little as long as others go on: in the first minutes only short ones have ended.
So each wait counts in every interval of elapsed time that it has passed or ended in, and the chance to end in
an interval is the share of those that did (the actuarial life table of Kaplan and Meier's estimator, in
intervals of equal ratio). Intervals that few have reached go by a prior.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Final

from .prediction import Prediction

MEMORY: Final = 50.0
"""Waits after which an older one has lost about two thirds of its weight, in each interval."""

SHORTEST: Final = 0.05
RATIO: Final = 1.25
INTERVALS: Final = 80
"""From 0.05 to about 2.8 million, which is a month in seconds."""

PRIOR_WEIGHT: Final = 2.0
"""A prior counts as much as so many waits, in each interval."""

VAGUE_WEIGHT: Final = 0.5
VAGUE_HAZARD: Final = 0.02
"""Without a prior: next to nothing, but enough for waits to end some day."""

_NORMAL_SIXTH: Final = 0.158655
"""Share of a normal distribution below its mean by more than its standard deviation."""

_LN_RATIO: Final = math.log(RATIO)


def interval(elapsed: float) -> int:
    """Returns the interval that holds an elapsed time."""
    if elapsed <= SHORTEST:
        return 0
    return min(int(math.log(elapsed / SHORTEST) / _LN_RATIO) + 1, INTERVALS - 1)


def end_of(index: int) -> float:
    """Returns the elapsed time at which an interval ends."""
    return SHORTEST * RATIO**index


class Survival:
    """The life table of one kind of waits.

    Attributes:
        count: waits that ended.
    """

    def __init__(self, prior: Prediction | None) -> None:
        self.count = 0
        self._passed = [0.0] * INTERVALS
        self._ended = [0.0] * INTERVALS
        self._fitted: tuple[int, Prediction] | None = None
        self._weight = VAGUE_WEIGHT if prior is None else PRIOR_WEIGHT
        self._hazards = [VAGUE_HAZARD] * INTERVALS if prior is None else _hazards(prior)
        self._changes = 0

    def passed(self, index: int) -> None:
        """Counts a wait that has reached the end of an interval."""
        self._fade(index)
        self._passed[index] += 1

    def ended(self, index: int) -> None:
        """Counts a wait that has ended in an interval."""
        self._fade(index)
        self._ended[index] += 1
        self.count += 1

    def fit(self) -> Prediction:
        """Returns the log-normal law that has the same median and the same spread around it."""
        # What has changed a little since is as good: a fit costs as much as the rest of a call's advice.
        if self._fitted is None or self._changes > self._fitted[0] * 17 // 16:
            self._fitted = (self._changes, self._fit())
        return Prediction(self._fitted[1].median, self._fitted[1].sigma, self.count)

    def _fade(self, index: int) -> None:
        self._changes += 1
        self._passed[index] *= 1 - 1 / MEMORY
        self._ended[index] *= 1 - 1 / MEMORY

    def _fit(self) -> Prediction:
        curve: list[tuple[float, float]] = []
        left, log_end = 1.0, math.log(SHORTEST)
        rows = zip(self._passed, self._ended, self._hazards, strict=True)
        for passed, ended, prior in rows:
            hazard = (ended + self._weight * prior) / (passed + ended + self._weight)
            left *= 1 - hazard
            curve.append((left, log_end))
            log_end += _LN_RATIO
        low, median, high = (_reaches(curve, share) for share in (1 - _NORMAL_SIXTH, 0.5, _NORMAL_SIXTH))
        return Prediction(math.exp(median), (high - low) / 2)


def _reaches(curve: Sequence[tuple[float, float]], share: float) -> float:
    """Returns ln of the elapsed time at which no more than a share of the waits goes on.

    Args:
        curve: what share goes on at the end of each interval, and ln of that end.
    """
    before = 1.0
    for after, log_end in curve:
        if after <= share:
            return log_end - _LN_RATIO * (after - share) / (after - before)
        before = after
    return curve[-1][1] + _LN_RATIO


def _hazards(prior: Prediction) -> list[float]:
    """Returns, for each interval, the chance under a prior that a wait which reaches it ends in it."""
    left = [1.0]
    for index in range(INTERVALS):
        z = math.log(end_of(index) / prior.median) / prior.sigma
        left.append(math.erfc(z / math.sqrt(2)) / 2)
    return [1 - after / before if before > 1e-12 else 1.0 for before, after in itertools.pairwise(left)]
