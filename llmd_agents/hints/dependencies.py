"""Which steps each step of a program waited for, from the steps and forks that it names as its parents."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple


class ForkEnds(NamedTuple):
    """What a fork stands for as a parent.

    Attributes:
        last: steps and forks that ended its branches.
        parents: steps and forks that it started from.
    """

    last: Iterable[str]
    parents: Iterable[str]


def dependencies(
    parents: Mapping[str, Iterable[str]],
    ends: Callable[[str, str], ForkEnds | None],
    *,
    lookups_max: int = sys.maxsize,
) -> dict[str, list[str]]:
    """Returns the steps that each step waited for; a fork stands for the last steps of its branches.

    A fork without steps leaves what it started from, except what the others waited for anyway.

    Args:
        parents: of each step.
        ends: what a step (the first argument) means by a fork (the second); None if there is no such fork.
        lookups_max: after so many the rest is left out: a graph that was made to be large costs little.
    """
    work = iter(range(lookups_max))
    found = {step: _behind(named, step, parents, ends, work) for step, named in parents.items()}
    work = iter(range(lookups_max))
    return {step: _without_implied(waits, found, work) for step, waits in found.items()}


def _behind(
    named: Iterable[str],
    step: str,
    steps: Mapping[str, object],
    ends: Callable[[str, str], ForkEnds | None],
    work: Iterator[int],
) -> dict[str, bool]:
    """Returns the steps that parents stand for, each with whether a fork without steps left it."""
    found: dict[str, bool] = {}
    pending = [(one, False) for one in reversed(tuple(named))]
    seen: set[str] = set()
    while pending and next(work, None) is not None:
        one, left = pending.pop()
        if one in steps:
            found[one] = found.get(one, True) and left
        elif one not in seen and (fork := ends(step, one)) is not None:
            seen.add(one)
            inside = [(end, left) for end in fork.last]
            pending += reversed(inside or [(parent, True) for parent in fork.parents])
    return found


def _without_implied(
    waits: Mapping[str, bool], found: Mapping[str, Iterable[str]], work: Iterator[int]
) -> list[str]:
    """Leaves out what was left by forks without steps, where others of the steps waited for it."""
    left = {one for one, was_left in waits.items() if was_left}
    if not left or len(waits) == 1:
        return list(waits)
    before: set[str] = set()
    pending = deque(waits)
    while pending and not left <= before and next(work, None) is not None:
        for one in found.get(pending.popleft(), ()):
            if one not in before:
                before.add(one)
                pending.append(one)
    return [one for one in waits if one not in left & before]
