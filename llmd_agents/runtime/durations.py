"""How long things take: learned from what was seen, corrected by what was declared.

Durations are taken as log-normal. For each kind of wait the mean and variance of ln(duration) are learned,
and for each source of hints those of ln(actual / hinted). The two predictions are combined by inverse
variance, so that a source that is off by a constant factor is corrected, and one that knows nothing loses
its weight (Bayesian combination of a prior and an observation, both normal in ln).
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

KINDS_MAX: Final = 4096
MEMORY: Final = 50.0
"""Observations after which an older one has lost about two thirds of its weight."""

SHORTEST_S: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Prediction:
    """A log-normal duration: median in seconds, standard deviation of ln, and how many were seen."""

    median: float
    sigma: float
    observations: int = 0


@dataclass(slots=True)
class _Moments:
    """Mean and variance of a stream of numbers, older ones fading out."""

    mean: float
    variance: float
    weight: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.weight = self.weight * (1 - 1 / MEMORY) + 1
        share = 1 / self.weight
        difference = value - self.mean
        self.mean += share * difference
        self.variance = (1 - share) * (self.variance + share * difference * difference)


class Durations:
    """Learned durations by kind; bounded, the least recently used kinds are forgotten."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Moments] = OrderedDict()
        self._errors: OrderedDict[str, _Moments] = OrderedDict()

    def observe(self, kind: str, seconds: float, hinted: float | None = None) -> None:
        """Learns that something took so long, and, if it was announced, how far that was off."""
        value = math.log(max(seconds, SHORTEST_S))
        _moments(self._seen, kind, value, 1.0).add(value)
        if hinted is not None:
            error = value - math.log(max(hinted, SHORTEST_S))
            _moments(self._errors, kind, 0.0, 1.0).add(error)

    def predict(
        self,
        kind: str,
        hinted: float | None = None,
        sigma: float | None = None,
        prior: Prediction | None = None,
    ) -> Prediction | None:
        """Returns what to expect; None if nothing is known.

        Args:
            hinted: the declared median, in seconds.
            sigma: how unsure that is, as declared; believed until the source's own errors are known.
            prior: stands in where nothing of this kind was seen.
        """
        seen = self._seen.get(kind)
        known = Prediction(math.exp(seen.mean), _spread(seen), seen.count) if seen is not None else prior
        if hinted is None:
            return known
        errors = self._errors.get(kind)
        center = math.log(max(hinted, SHORTEST_S)) + (errors.mean if errors is not None else 0.0)
        spread = _spread(errors) if errors is not None else max(sigma if sigma is not None else 0.7, 0.1)
        if known is None:
            return Prediction(math.exp(center), spread)
        w = known.sigma**2 / (known.sigma**2 + spread**2)
        mean = w * center + (1 - w) * math.log(max(known.median, SHORTEST_S))
        # Both may rest on the same observations, so neither makes the other surer than it is.
        return Prediction(math.exp(mean), min(known.sigma, spread), known.observations)


def _moments(table: OrderedDict[str, _Moments], kind: str, mean: float, variance: float) -> _Moments:
    moments = table.get(kind)
    if moments is None:
        moments = table[kind] = _Moments(mean, variance)
        if len(table) > KINDS_MAX:
            table.popitem(last=False)
    else:
        table.move_to_end(kind)
    return moments


def _spread(moments: _Moments) -> float:
    """Standard deviation, shrunk from 1 while little was seen."""
    return math.sqrt((moments.variance * moments.weight + 2.0) / (moments.weight + 2.0))
