"""The order of eviction: one rule for every engine that takes estimates.

    1. Leaves first: without what precedes it, context cannot be used, so a prefix is needed as soon as
       anything that extends it.
    2. Dead context first of all, least recently used first; then what a faster tier holds as well.
    3. Then what will be needed last. From an estimate: the posterior median of the time left, given how long
       it has been waited for, over what computing it again would cost: of two that are needed equally soon,
       the cheaper goes. Where nothing is known: as long again as it has not been used, which is
       least-recently-used order (the median for a Pareto law with exponent 1).
    4. Estimates that would keep context longer than rule 3 alone are heeded up to a budget, those that are
       needed soonest first; past the budget the context keeps its least-recently-used place. Estimates that
       give context up sooner cost nothing and always count.

Worthless estimates (weight 0) leave exactly least-recently-used order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

_NORMAL = NormalDist()

SIGMA_MIN = 0.3
"""Nothing is surer than this: an estimate without any spread could never be overdue."""

SHORTEST_S = 1e-3


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a context will be needed next: log-normal, counted from `made_at`. Times in seconds.

    Attributes:
        median: of the time from `made_at` to the next use.
        sigma: standard deviation of its natural logarithm.
        expires_at: from here on it counts no more.
        weight: how far it is trusted, 0 to 1.
    """

    made_at: float
    median: float
    sigma: float
    expires_at: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Held:
    """A stretch of cached context that may be given up.

    Attributes:
        parent: index, in the same sequence and before this one, of the context that it extends.
        size: blocks (or any unit of space) that it would free.
        last_used: when a request last used it.
        dead: nobody will use it again.
        estimate: of its own next use.
        scope: whose budget keeping it would spend.
        cost: of computing one unit of it again, beside a unit at the start of a prompt.
        spare: a faster tier holds it as well.
    """

    parent: int | None
    size: int
    last_used: float
    dead: bool = False
    estimate: Estimate | None = None
    scope: str | None = None
    cost: float = 1.0
    spare: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """How much estimates may keep beyond least-recently-used order, in the unit of `Held.size`.

    Attributes:
        total: of all scopes together.
        by_scope: of single scopes.
        each_scope: of every scope that `by_scope` does not name.
    """

    total: float = math.inf
    by_scope: Mapping[str | None, float] = field(default_factory=dict)
    each_scope: float = math.inf


def unknown_residual(last_used: float, now: float) -> float:
    """Returns the median time to the next use of context of which nothing is known, in seconds."""
    return max(now - last_used, SHORTEST_S)


def residual(estimate: Estimate | None, last_used: float, now: float) -> float:
    """Returns the median time from `now` to the next use, given that it has not come yet, in seconds."""
    unknown = unknown_residual(last_used, now)
    if estimate is None or now >= estimate.expires_at or estimate.weight <= 0:
        return unknown
    known = _log_normal_residual(max(estimate.median, SHORTEST_S), estimate.sigma, now - estimate.made_at)
    return math.exp(estimate.weight * math.log(known) + (1 - estimate.weight) * math.log(unknown))


def _log_normal_residual(median: float, sigma: float, elapsed: float) -> float:
    sigma = max(sigma, SIGMA_MIN)
    if elapsed <= SHORTEST_S * 1e-6:  # nothing has been waited for yet, and its logarithm may not exist
        return median - min(elapsed, 0.0)
    z = math.log(elapsed / median) / sigma
    if z > 6:  # far overdue: the tail, where the exact form loses its digits
        return max(elapsed * math.expm1(sigma * math.log(2) / z), SHORTEST_S)
    # Half of the chance that is left lies before the median of what is left.
    left = _NORMAL.cdf(-z)
    return max(median * math.exp(-sigma * _NORMAL.inv_cdf(left / 2)) - elapsed, SHORTEST_S)


def eviction_order(held: Sequence[Held], now: float, budget: Budget | None = None) -> list[int]:
    """Returns the indices of `held` in the order in which they are to be given up.

    Args:
        held: contexts; each parent stands before its children.
        now: seconds, by the clock that the estimates were made by.
        budget: unlimited if None.
    """
    unknown = [unknown_residual(item.last_used, now) for item in held]
    expected = [
        residual(item.estimate, item.last_used, now) / (item.cost if item.estimate is not None else 1.0)
        for item in held
    ]
    alive = [not item.dead for item in held]
    depth = [0] * len(held)
    for index, item in enumerate(held):
        if item.parent is not None:
            depth[index] = depth[item.parent] + 1
    # What extends a context keeps it alive, and is needed no sooner than it.
    for index in range(len(held) - 1, -1, -1):
        parent = held[index].parent
        if parent is None or not alive[index]:
            continue
        if not alive[parent]:
            alive[parent], expected[parent] = True, expected[index]
        expected[parent] = min(expected[parent], expected[index])
        unknown[parent] = min(unknown[parent], unknown[index])
    if budget is not None:
        promoted = [i for i in range(len(held)) if alive[i] and expected[i] < unknown[i]]
        promoted.sort(key=lambda i: (expected[i], depth[i]))
        for index in _beyond(held, promoted, budget):
            expected[index] = unknown[index]
    return sorted(
        range(len(held)),
        key=lambda i: (
            alive[i],
            alive[i] and not held[i].spare,
            -(expected[i] if alive[i] else unknown[i]),
            -depth[i],
        ),
    )


def _beyond(held: Sequence[Held], promoted: Sequence[int], budget: Budget) -> list[int]:
    """Returns those of `promoted`, in their order, that the budget does not reach.

    Whatever follows the first of a scope that does not fit is left out too: it is needed later, and what
    extends a context must not be kept without it.
    """
    beyond: list[int] = []
    spent: dict[str | None, float] = {}
    total = 0.0
    full: set[str | None] = set()
    left_out: set[int | None] = set()
    for index in promoted:
        scope, size = held[index].scope, held[index].size
        of_scope = spent.get(scope, 0.0) + size
        if (
            scope in full
            or held[index].parent in left_out
            or total + size > budget.total
            or of_scope > budget.by_scope.get(scope, budget.each_scope)
        ):
            full.add(scope)
            left_out.add(index)
            beyond.append(index)
        else:
            total += size
            spent[scope] = of_scope
    return beyond
