"""`ByNextUse`: what is dead goes first, then what will be needed last, by the estimates that were given."""

from collections import OrderedDict
from collections.abc import Container
from typing import Final

from llmd_agents.hints import Budget, Estimate, Held, eviction_order, residual

from .contexts import Contexts, Run
from .eviction import Block

RANKING_VALID_S: Final = 0.25
"""An order that was computed holds for so long, in modelled seconds, unless a directive comes: context that
became free since has just been used, and goes after all that was ranked."""

PIECES_OF_BUDGET: Final = 16
"""Contexts longer than this part of the budget are ranked in pieces, so that it can keep their heads."""


class ByNextUse:
    """The order of `hints.retention` over the free blocks of one tier, the tail of a context first.

    While nothing is dead and nothing estimated it is least-recently-used order, block by block. The core
    binds it to its contexts.
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, Block] = OrderedDict()  # least recently used first
        # The same blocks by run; kept only once there has been something to rank, since it costs time.
        self._of_run: dict[Run, dict[int, Block]] | None = None
        self._contexts: Contexts | None = None
        self._level = 0
        self._budget = 0.0
        self._dearer = 0.0
        self._queue: list[Run] = []  # the next to go is the last
        self._freed_since: set[Run] = set()
        self._ranked: tuple[int, float] | None = None

    def bind(self, contexts: Contexts, level: int, budget: float, dearer: float) -> None:
        """Lets it follow these contexts.

        Args:
            level: of its tier; 0 is the device.
            budget: blocks that estimates may keep beyond least-recently-used order.
            dearer: what each further block of a prompt costs more to compute, beside its first.
        """
        self._contexts = contexts
        self._level = level
        self._budget = budget
        self._dearer = dearer
        contexts.on_split(self._split)

    def __len__(self) -> int:
        return len(self._blocks)

    def add(self, block: Block) -> None:
        self._blocks[block.id] = block
        if self._of_run is not None:
            self._freed_since.add(self._put(block, self._of_run))

    def discard(self, block: Block) -> None:
        del self._blocks[block.id]
        if self._of_run is not None:
            self._take(block, self._of_run)

    def pop(self, now: float) -> Block:
        contexts = self._contexts
        if contexts is not None and (contexts.dead or contexts.estimated):
            if self._of_run is None:
                self._of_run = {}
                for block in self._blocks.values():
                    self._put(block, self._of_run)
            run = self._next_run(contexts, self._of_run, now)
            if run is not None:
                block = next(iter(self._of_run[run].values()))
                self.discard(block)
                return block
        block = next(iter(self._blocks.values()))
        self.discard(block)
        return block

    def _put(self, block: Block, of_run: dict[Run, dict[int, Block]]) -> Run:
        assert self._contexts is not None
        assert block.hash is not None
        run = self._contexts.run_of(block.hash)
        blocks = of_run.get(run)
        if blocks is None:
            of_run[run] = {block.id: block}
        else:
            blocks[block.id] = block
        return run

    def _take(self, block: Block, of_run: dict[Run, dict[int, Block]]) -> None:
        assert self._contexts is not None
        assert block.hash is not None
        run = self._contexts.run_of(block.hash)
        blocks = of_run[run]
        if len(blocks) == 1:
            del of_run[run]
        else:
            del blocks[block.id]

    def _split(self, run: Run, head: Run) -> None:
        if self._of_run is None or (blocks := self._of_run.get(run)) is None:
            return
        moving = set(head.blocks)
        moved = {key: block for key, block in blocks.items() if block.hash in moving}
        if moved:
            self._of_run[head] = moved
            for key in moved:
                del blocks[key]
            if not blocks:
                del self._of_run[run]
            self._ranked = None

    def _next_run(self, contexts: Contexts, of_run: dict[Run, dict[int, Block]], now: float) -> Run | None:
        """Returns the run to take the next block from; None where least-recently-used order decides."""
        if (
            self._ranked is None
            or self._ranked[0] != contexts.version
            or not 0 <= now - self._ranked[1] <= RANKING_VALID_S
        ):
            self._rank(contexts, of_run, now)
        for _ in range(2):
            while self._queue:
                run = self._queue[-1]
                if run in of_run and run not in self._freed_since:
                    return run
                self._queue.pop()
            if not contexts.estimated:
                return None
            # All that was ranked is gone.
            self._rank(contexts, of_run, now)
        return None

    def _rank(self, contexts: Contexts, of_run: dict[Run, dict[int, Block]], now: float) -> None:
        contexts.forget_expired(now)
        if contexts.estimated:
            sizes = {run: len(held) for run, held in of_run.items()}
            self._queue = ranking(sizes, now, self._budget, level=self._level, dearer=self._dearer)
        else:
            dead = [run for run in contexts.dead if run in of_run]
            self._queue = sorted(dead, key=lambda run: (-run.last_used, run.end))
        self._freed_since.clear()
        self._ranked = (contexts.version, now)


def ranking(
    sizes: dict[Run, int], now: float, budget: float, *, level: int = 0, dearer: float = 0.0
) -> list[Run]:
    """Returns the runs, given with their numbers of free blocks, in order; the first to go is the last.

    Args:
        level, dearer: see `ByNextUse.bind`.
    """
    piece = max(1.0, budget / PIECES_OF_BUDGET)
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
    order = eviction_order(held, now, Budget(total=budget))
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
