"""Where the branches of a declared fork go, and which engines get their context first.

The branches are given to engines one by one, each to the engine where it would end soonest. An engine that
does not hold the context must first load it, copy it from a peer or compute it; one that runs more at a time
takes longer for each step. So a small fork of a short context stays on one engine, and a large one spreads
as soon as a copy costs less than the slower steps do. (The trade that Preble makes between reuse and load,
with copying as a third way.) One more engine must be worth it: the join waits for the slowest branch, and on
each engine others' work may hold one up.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from llmd_agents.hints import EngineRates

DEFAULT_RATES: Final = EngineRates(
    prefill_s_per_token=5e-5, step_s=7e-3, decode_s_per_seq=5e-5, decode_s_per_context_token=6.5e-8
)
"""Of an engine that does not tell: an 8B model on an H100, to the order of magnitude."""

DEFAULT_OUTPUT_TOKENS: Final = 300
MOST_BRANCHES: Final = 512
"""Branches that are placed one by one; more follow the same proportions."""

WORTH: Final = 0.5
"""Part of what an engine more would win if all of the time were shared out evenly: it must win this much."""

HELD_UP: Final = 0.5
"""Part of the computing that is queued on an engine which a branch there waits for, or is slowed down by."""

Way: TypeAlias = Literal["held", "load", "copy", "compute"]


@dataclass(frozen=True, slots=True)
class Site:
    """An engine as a place for branches.

    Attributes:
        way: how it would come to hold the context.
        ready_s: seconds until it does.
        running: steps under way there.
        context: tokens of their prompts together.
    """

    engine: str
    rates: EngineRates
    way: Way
    ready_s: float
    running: int
    context: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    digest: the context that the branches share, as far as it was known.
    engines: one for each branch by its index, in turn where the fork is wider.
    ways: how each engine that is used comes to hold the context.
    """

    digest: bytes
    engines: tuple[str, ...]
    ways: dict[str, Way]

    def without(self, engine: str) -> "Plan":
        """Returns the plan with the branches of one engine given to the others in turn."""
        ways = {name: way for name, way in self.ways.items() if name != engine}
        turn = itertools.cycle(ways)
        engines = tuple(next(turn) if name == engine else name for name in self.engines)
        return Plan(self.digest, engines, ways)


def ways_to_hold(
    tokens: int, rates: EngineRates, *, held: bool, loadable: bool, copyable: bool, queued_tokens: int
) -> tuple[Way, float]:
    """Returns the cheapest way for an engine to come to hold a context, and the seconds until it has."""
    queued_s = queued_tokens * rates.prefill_s_per_token
    held_up_s = HELD_UP * queued_s
    if held:
        return "held", held_up_s
    ways: list[tuple[float, Way]] = [(tokens * rates.prefill_s_per_token + queued_s, "compute")]
    if loadable and rates.host_s_per_token is not None:
        ways.append((max(tokens * rates.host_s_per_token, held_up_s), "load"))
    if copyable and rates.peer_s_per_token is not None:
        ways.append((max(tokens * rates.peer_s_per_token, held_up_s), "copy"))
    seconds, way = min(ways)
    return way, seconds


def plan_fork(
    digest: bytes, width: int, tokens: int, sites: Sequence[Site], output_tokens: float
) -> Plan | None:
    """Returns where the branches go; None without engines.

    Args:
        width: number of branches.
        tokens: length of the shared context.
        output_tokens: what a branch is expected to generate.
    """

    def end(site: Site, branches: int) -> float:
        return _end(site, branches, tokens, output_tokens)

    best: list[str] = []
    ends = math.inf
    by_end = sorted(sites, key=lambda site: end(site, 1))
    for count in range(1, len(by_end) + 1):
        placed, then = _share_out(min(width, MOST_BRANCHES), by_end[:count], end)
        if then > ends * (1 - WORTH / count):
            break
        best, ends = placed, then
    if not best:
        return None
    used = set(best)
    return Plan(digest, tuple(best), {site.engine: site.way for site in sites if site.engine in used})


def _share_out(
    width: int, sites: Sequence[Site], end: Callable[[Site, int], float]
) -> tuple[list[str], float]:
    """Returns an engine for each branch, and the seconds until all have ended."""
    placed: list[str] = []
    latest = 0.0
    # By the end that one branch more would have there; the first of equals stays first.
    next_ends = [(end(site, 1), order, 1) for order, site in enumerate(sites)]
    heapq.heapify(next_ends)
    for _ in range(width):
        then, order, branches = next_ends[0]
        placed.append(sites[order].engine)
        latest = max(latest, then)
        heapq.heapreplace(next_ends, (end(sites[order], branches + 1), order, branches + 1))
    return placed, latest


def _end(site: Site, branches: int, tokens: int, output_tokens: float) -> float:
    """Seconds until an engine with so many branches more has ended them."""
    rates = site.rates
    step = (
        rates.step_s
        + (site.running + branches) * rates.decode_s_per_seq
        + (site.context + branches * tokens) * rates.decode_s_per_context_token
    )
    return site.ready_s + output_tokens * step
