"""`ByNextUse`: what is dead goes first, then what will be needed last, by the estimates that were given."""

from collections import OrderedDict
from typing import Final

from llmd_agents.cache_index import Contexts, Run, ranking
from llmd_agents.hints import Budget

from .eviction import Block

RANKING_VALID_S: Final = 0.25
"""An order that was computed holds for so long, in modelled seconds, unless a directive comes: context that
became free since has just been used, and goes after all that was ranked."""


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
            self._queue = ranking(
                sizes, now, Budget(total=self._budget), level=self._level, dearer=self._dearer
            )
        else:
            dead = [run for run in contexts.dead if run in of_run]
            self._queue = sorted(dead, key=lambda run: (-run.last_used, run.end))
        self._freed_since.clear()
        self._ranked = (contexts.version, now)
