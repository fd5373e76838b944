"""In which order the contexts of one tier are given up, by the rule of `hints.retention`."""

from collections.abc import Container
from typing import Final

from llmd_agents.hints import Budget, Estimate, Held, eviction_order, residual

from .contexts import Run

PIECES_OF_BUDGET: Final = 16
"""Contexts longer than this part of the budget are ranked in pieces, so that it can keep their heads."""


def ranking(
    sizes: dict[Run, int], now: float, budget: Budget, *, level: int = 0, dearer: float = 0.0
) -> list[Run]:
    """Returns the runs, given with their numbers of free blocks, in order; the first to go is the last.

    Args:
        budget: in blocks.
        level: of the tier that the blocks are in; 0 is the device.
        dearer: what each further block of a prompt costs more to compute, beside its first.
    """
    piece = max(1.0, budget.total / PIECES_OF_BUDGET)
    runs = sorted(sizes, key=lambda run: run.end)
    extended: dict[Run | None, int] = {}
    for run in runs:
        extended[run.parent] = extended.get(run.parent, 0) + 1
    stretches: list[list[Run]] = []
    estimates: list[Estimate | None] = []
    parents: list[int | None] = []
    room: list[int] = []
    of_run: dict[Run, int] = {}
    for run in runs:
        size = sizes[run]
        estimate = _soonest(_estimates(run, sizes), run.last_used, now)
        parent = of_run.get(run.parent) if run.parent is not None else None
        if parent is not None:
            before = stretches[parent][-1]
            # What is only ever needed together is ranked as one.
            if (
                extended[before] == 1
                and before.last_used == run.last_used
                and before.dead == run.dead
                and estimates[parent] is estimate
                and room[parent] + size <= piece
            ):
                stretches[parent].append(run)
                room[parent] += size
                of_run[run] = parent
                continue
        of_run[run] = len(stretches)
        stretches.append([run])
        estimates.append(estimate)
        parents.append(parent)
        room.append(size)
    held = [
        Held(
            parent,
            size,
            runs_[0].last_used,
            runs_[0].dead,
            estimate,
            _scope(runs_[-1]),
            cost=1 + dearer * (runs_[0].start + runs_[-1].end) / 2,
            spare=level > 0 and not any(run.missing[level - 1] for run in runs_),
        )
        for runs_, parent, size, estimate in zip(stretches, parents, room, estimates, strict=True)
    ]
    order = eviction_order(held, now, budget)
    return [run for index in reversed(order) for run in stretches[index]]


def _estimates(run: Run, here: Container[Run]) -> list[Estimate]:
    """Returns the estimates of a run and of what extends it in other tiers: who needs that needs it too."""
    estimates = run.estimates
    elsewhere = [child for child in run.children if child not in here]
    while elsewhere:
        below = elsewhere.pop()
        estimates += below.estimates
        elsewhere += [child for child in below.children if child not in here]
    return estimates


def _soonest(estimates: list[Estimate], last_used: float, now: float) -> Estimate | None:
    if len(estimates) < 2:
        return estimates[0] if estimates else None
    return min(estimates, key=lambda estimate: residual(estimate, last_used, now))


def _scope(run: Run) -> str | None:
    for name in run.names.values():
        return name.scope
    return run.tail_of.scope if run.tail_of is not None else None
