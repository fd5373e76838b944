"""Divergences of a run, grouped by cause: how often, and what they cost."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .divergence import Divergence
    from .prices import Prices

CAUSES_MAX = 256
"""Most causes that are told apart; a prompt's own names could make up any number of them."""

BRANCHES_MAX = 4096


@dataclass(slots=True)
class Finding:
    """One cause.

    Attributes:
        first: the divergence in which it showed first.
        times: how many requests it hit.
        lost_tokens: tokens recomputed by all of them.
        cost: dollars that this cost in all, as far as prices are known; None if none is.
        branches: those hit, the first `BRANCHES_MAX`.
    """

    first: Divergence
    times: int = 0
    lost_tokens: int = 0
    cost: float | None = None
    branches: set[str] = field(default_factory=set)

    @property
    def tokens_each_turn(self) -> int:
        return round(self.lost_tokens / max(self.times, 1))

    @property
    def sentence(self) -> str:
        """What was found, where and what it costs, in one sentence without contents."""
        first = self.first
        cost = "" if self.cost is None else f", {dollars(self.cost)} at the configured price"
        if self.times == 1:
            return f"diverged at {first.where}: {first.what}, {_tokens(first.lost_tokens)} recomputed{cost}"
        in_all = f" in {self.times:,} turns" if self.cost is None else f"{cost} in {self.times:,} turns"
        each = _tokens(self.tokens_each_turn)
        return f"diverged at {first.where}: {first.what}, {each} recomputed each turn{in_all}"


class Findings:
    """Collects divergences. Memory is bounded; safe to use from threads.

    Args:
        prices: what tokens cost, if costs are to be told.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices
        self._by_key: dict[str, Finding] = {}
        self._lock = threading.Lock()

    def add(self, divergence: Divergence) -> bool:
        """Counts a divergence; returns whether its cause is seen for the first time."""
        with self._lock:
            key = divergence.key
            finding = self._by_key.get(key)
            is_new = finding is None
            if finding is None:
                if len(self._by_key) >= CAUSES_MAX:
                    return False
                finding = self._by_key[key] = Finding(divergence)
            finding.times += 1
            finding.lost_tokens += divergence.lost_tokens
            if len(finding.branches) < BRANCHES_MAX:
                finding.branches.add(divergence.branch)
            cost = cost_of(divergence, self._prices)
            if cost is not None:
                finding.cost = (finding.cost or 0.0) + cost
            return is_new

    def __iter__(self) -> Iterator[Finding]:
        """Yields the costliest first."""
        with self._lock:
            found = list(self._by_key.values())
        return iter(sorted(found, key=lambda one: (one.cost or 0.0, one.lost_tokens), reverse=True))

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def lost_tokens(self) -> int:
        return sum(finding.lost_tokens for finding in self)

    @property
    def cost(self) -> float | None:
        """Dollars in all; None if no price is known for any of it."""
        known = [finding.cost for finding in self if finding.cost is not None]
        return sum(known) if known else None


def cost_of(divergence: Divergence, prices: Prices | None) -> float | None:
    """Returns the dollars that one divergence costs; None where its model's price is not known."""
    return None if prices is None else prices.of_recomputing(divergence.model, divergence.lost_tokens)


def dollars(amount: float) -> str:
    return f"about ${amount:,.2f}" if amount >= 0.01 or amount == 0 else f"about ${amount:.2g}"


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def sentence(divergence: Divergence, prices: Prices | None = None) -> str:
    """Says where one divergence is, why, and what it costs on each turn that it hits; without contents."""
    cost = cost_of(divergence, prices)
    price = "" if cost is None else f", {dollars(cost)} at the configured price"
    tokens = _tokens(divergence.lost_tokens)
    return f"diverged at {divergence.where}: {divergence.what}, {tokens} recomputed each turn{price}"
