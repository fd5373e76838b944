"""In which order waiting requests are admitted: one pure function, without vLLM and without a clock.

It is the embedded engine's `CachedFirst` with three additions: vLLM's own priority and its preempted requests
keep their places, a program's priority goes before what is cached, and among the branches of several forks
the fork that is nearest to its join goes first.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field

from llmd_agents.hints import DEFAULT_PRIORITY

from .options import StrictOptions

ForkId: TypeAlias = tuple[str, str]
"""(program, fork)"""


class QueueRule(StrictOptions):
    """What an operator may set."""

    where: ClassVar[str] = 'additional_config["llmd_agents"]'

    aging_s: Annotated[float, Field(ge=0)] = 10.0
    """Who has waited longer (in seconds) goes before all others of its vLLM priority, oldest first."""
    short_tokens: Annotated[int, Field(ge=0)] = 2048
    """So many prompt tokens to compute do not hold up the branches that decode."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What hints and vLLM say of one request, apart from how much of it is cached.

    Attributes:
        engine_priority: vLLM's; lower goes first. 0 for all where vLLM is not asked to look at it.
        program_priority: 0–100, higher matters more.
        fork: the fork whose join waits for it.
        deadline: of its program, in seconds since the Unix epoch; infinite without one.
        tenant: its cache salt. What hints declare changes the order among the requests of one tenant alone.
    """

    engine_priority: int = 0
    program_priority: int = DEFAULT_PRIORITY
    fork: ForkId | None = None
    deadline: float = math.inf
    tenant: str | None = None

    @property
    def importance(self) -> tuple[int, int]:
        """The smaller, the more important."""
        return self.engine_priority, -self.program_priority


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue.

    Attributes:
        uncached: prompt tokens that are to be computed.
        preempted: it ran already: it goes first, as in vLLM.
    """

    standing: Standing
    arrival_s: float
    uncached: int
    preempted: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """An admitted request; `decoding` once it has a first output token."""

    standing: Standing
    decoding: bool


def admission_order(
    waiting: Sequence[Waiting], running: Sequence[Running], now: float, rule: QueueRule
) -> list[int]:
    """Returns indices into `waiting`, who goes first at the front; who is held back now is left out.

    Fewest uncached prompt tokens first, ties by arrival, with a hard bound on waiting (`aging_s`). Among the
    places that a tenant's requests get so, its more important programs take the first. While a branch of a
    fork decodes, a long prompt of its tenant that is no branch and no more important is held back.

    Args:
        waiting: in vLLM's own order.
        now: seconds, on the clock of `arrival_s`.
    """
    spared: dict[str | None, tuple[int, int]] = {}
    for running_one in running:
        its = running_one.standing
        if running_one.decoding and its.fork is not None:
            spared[its.tenant] = min(its.importance, spared.get(its.tenant, its.importance))
    keyed: list[tuple[tuple[int, int, float, float], int]] = []
    for index, one in enumerate(waiting):
        standing = one.standing
        key: tuple[int, float, float]
        if one.preempted:
            key = (0, 0, 0)
        elif now - one.arrival_s > rule.aging_s:
            key = (1, one.arrival_s, 0)
        elif _held_back(one, spared.get(standing.tenant), rule):
            continue
        else:
            key = (2, one.uncached, one.arrival_s)
        keyed.append(((standing.engine_priority, *key), index))
    keyed.sort()
    order = [index for _, index in keyed]
    fresh = [place for place, (key, _) in enumerate(keyed) if key[1] == 2]
    _important_first(order, fresh, waiting)
    return _nearest_join_first(order, fresh, waiting, running, rule)


def _held_back(one: Waiting, spared: tuple[int, int] | None, rule: QueueRule) -> bool:
    """Returns whether a prompt waits for branches that decode; the most important of them is `spared`."""
    return (
        spared is not None
        and one.uncached > rule.short_tokens
        and one.standing.fork is None
        and one.standing.importance >= spared
    )


def _important_first(order: list[int], fresh: Sequence[int], waiting: Sequence[Waiting]) -> None:
    """Hands the places of each tenant's requests to those of its more important programs first."""
    places: dict[tuple[str | None, int], list[int]] = defaultdict(list)
    for place in fresh:
        standing = waiting[order[place]].standing
        places[standing.tenant, standing.engine_priority].append(place)
    for among in places.values():
        _take_in_turn(order, among, lambda index: -waiting[index].standing.program_priority)


def _nearest_join_first(
    order: list[int],
    fresh: Sequence[int],
    waiting: Sequence[Waiting],
    running: Sequence[Running],
    rule: QueueRule,
) -> list[int]:
    """Hands the places that short branches got to the fork with the fewest branches to go, deadlines next.

    A join waits for the last of its branches, so that two forks finish sooner on average one after the other
    than interleaved. No other request moves, and with one fork nothing does.
    """
    places: dict[tuple[str | None, tuple[int, int]], list[int]] = defaultdict(list)
    for place in fresh:
        one = waiting[order[place]]
        if one.standing.fork is not None and one.uncached <= rule.short_tokens:
            places[one.standing.tenant, one.standing.importance].append(place)
    if not places:
        return order
    to_go = Counter((one.standing.tenant, one.standing.fork) for one in waiting)
    to_go.update((one.standing.tenant, one.standing.fork) for one in running)
    result = list(order)
    for among in places.values():
        first: dict[ForkId | None, int] = {}
        for place in among:
            first.setdefault(waiting[order[place]].standing.fork, place)

        def nearness(index: int, first: Mapping[ForkId | None, int] = first) -> tuple[int, float, int]:
            standing = waiting[index].standing
            return to_go[standing.tenant, standing.fork], standing.deadline, first[standing.fork]

        _take_in_turn(result, among, nearness)
    return result


def _take_in_turn(order: list[int], places: Sequence[int], key: Callable[[int], Any]) -> None:
    """Sorts those who have these places among themselves; of equals each keeps its turn."""
    for place, index in zip(places, sorted((order[place] for place in places), key=key), strict=True):
        order[place] = index
