"""How long waits take: learned from what was seen, combined with what was declared.

Durations are taken as log-normal. For each kind of wait their law is learned (`survival`), and for each
source of hints mean and variance of ln(actual / hinted). The two predictions are combined by inverse
variance, so that a source that is off by a constant factor is corrected, and one that knows nothing loses
its weight (Bayesian combination of a prior and an observation, both normal in ln).
"""

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from .prediction import Prediction
from .survival import INTERVALS, MEMORY, Survival, end_of, interval

KINDS_MAX: Final = 4096
OPEN_MAX: Final = 50_000
"""Waits that are followed at once; from more nothing is learned."""

SHORTEST_S: Final = 1e-3


@dataclass(slots=True)
class _Moments:
    """Mean and variance of a stream of numbers, older ones fading out."""

    mean: float = 0.0
    variance: float = 1.0
    weight: float = 0.0

    def add(self, value: float) -> None:
        self.weight = self.weight * (1 - 1 / MEMORY) + 1
        share = 1 / self.weight
        difference = value - self.mean
        self.mean += share * difference
        self.variance = (1 - share) * (self.variance + share * difference * difference)

    @property
    def spread(self) -> float:
        """Standard deviation, shrunk from 1 while little was seen."""
        return math.sqrt((self.variance * self.weight + 2.0) / (self.weight + 2.0))


@dataclass(slots=True)
class _Kind:
    """One kind of wait.

    Attributes:
        errors: of what was declared of such waits; None if nothing ever was.
        crossings: when each open wait reaches the end of an interval: (time, order, interval, wait).
    """

    survival: Survival
    errors: _Moments | None = None
    crossings: list[tuple[float, int, int, "_Open"]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Open:
    """A wait that goes on.

    Attributes:
        reached: the interval that it is in.
    """

    kind: str
    since: float
    hinted: float | None
    reached: int = 0
    over: bool = False


class Durations:
    """Learned durations by kind; bounded, the least recently used kinds are forgotten. Times in seconds."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, _Kind] = OrderedDict()
        self._open: dict[Hashable, _Open] = {}
        self._order = itertools.count()

    def begin(
        self,
        who: Hashable,
        kind: str,
        at: float,
        hinted: float | None = None,
        prior: Prediction | None = None,
    ) -> None:
        """Somebody begins to wait; ends what they waited for before, unlearned.

        Args:
            hinted: how long it was declared to take, in the median.
            prior: stands in while little of this kind was seen.
        """
        self.drop(who)
        if len(self._open) >= OPEN_MAX:
            return
        wait = self._open[who] = _Open(kind, at, hinted)
        self._follow(self._kind(kind, prior), wait)

    def end(self, who: Hashable, at: float) -> None:
        """What somebody waited for has come."""
        wait = self._open.get(who)
        if wait is None:
            return
        kind = self._kinds.get(wait.kind)
        if kind is not None:
            self._advance(kind, at)
            self._learn(kind, at - wait.since, wait.reached, wait.hinted)
        self.drop(who)

    def drop(self, who: Hashable) -> None:
        """Somebody waits no more, for another reason."""
        wait = self._open.pop(who, None)
        if wait is not None:
            wait.over = True

    def observe(self, kind: str, value: float) -> None:
        """Learns a duration, or any other positive number, that was not followed."""
        self._learn(self._kind(kind, None), value, 0, None)

    def observed(self, kind: str) -> Prediction | None:
        """Returns the law of what was observed of a kind; None if nothing was."""
        found = self._kinds.get(kind)
        return found.survival.fit() if found is not None and found.survival.count else None

    def predict(
        self,
        kind: str,
        at: float,
        hinted: float | None = None,
        sigma: float | None = None,
        prior: Prediction | None = None,
    ) -> Prediction | None:
        """Returns what to expect; None if nothing is known.

        Args:
            hinted: the declared median.
            sigma: how unsure that is, as declared; believed until the source's own errors are known.
            prior: stands in where nothing of this kind was seen.
        """
        found = self._kinds.get(kind)
        if found is not None:
            self._advance(found, at)
        errors = found.errors if found is not None else None
        known = self.observed(kind) or prior
        if hinted is None:
            return known
        center = math.log(max(hinted, SHORTEST_S)) + (errors.mean if errors is not None else 0.0)
        spread = errors.spread if errors is not None else max(sigma if sigma is not None else 0.7, 0.1)
        if known is None:
            return Prediction(math.exp(center), spread)
        w = known.sigma**2 / (known.sigma**2 + spread**2)
        mean = w * center + (1 - w) * math.log(max(known.median, SHORTEST_S))
        # Both may rest on the same observations, so neither makes the other surer than it is.
        return Prediction(math.exp(mean), min(known.sigma, spread), known.observations)

    def _kind(self, name: str, prior: Prediction | None) -> _Kind:
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind(Survival(prior))
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        else:
            self._kinds.move_to_end(name)
        return kind

    def _learn(self, kind: _Kind, value: float, reached: int, hinted: float | None) -> None:
        last = interval(value)
        for index in range(reached, last):
            kind.survival.passed(index)
        kind.survival.ended(last)
        if hinted is not None:
            kind.errors = kind.errors or _Moments()
            kind.errors.add(math.log(max(value, SHORTEST_S) / max(hinted, SHORTEST_S)))

    def _advance(self, kind: _Kind, at: float) -> None:
        """Counts the intervals whose ends open waits have reached by now."""
        crossings = kind.crossings
        while crossings and crossings[0][0] <= at:
            _, _, index, wait = heapq.heappop(crossings)
            if not wait.over:
                kind.survival.passed(index)
                wait.reached = index + 1
                if wait.reached < INTERVALS:
                    self._follow(kind, wait)

    def _follow(self, kind: _Kind, wait: _Open) -> None:
        due = wait.since + end_of(wait.reached)
        heapq.heappush(kind.crossings, (due, next(self._order), wait.reached, wait))
