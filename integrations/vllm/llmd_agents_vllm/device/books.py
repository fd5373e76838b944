"""The books of one engine: contexts, their blocks on the device and below, and the order of eviction."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from llmd_agents.cache_index import (
    Answer,
    Contexts,
    Name,
    Residency,
    Run,
    prefix_named,
    ranking,
    release,
    retain,
)
from llmd_agents.hints import Budget, Hints, Release, ResidencyChange, Retain, Tier
from llmd_agents.hints.limits import PROGRAMS_SHOWN_MAX

from .boundaries import boundaries
from .fate import Fate, fate, outlives_branch
from .pool import DevicePool
from .use import Use

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import KVCacheBlock

CHANGES_PER_RUN: Final = 16
"""An order lasts until blocks have come and gone for one part in so many of the contexts that it ranked."""

ORDER_S_PER_RUN: Final = 150e-6
"""An order holds for so many seconds for each context that it ranked, fifty times what ranking takes; for a
fifth of that where a request needs more blocks than are in order."""

ORDER_S_PER_BLOCK: Final = 100e-6
"""And for so many seconds for each block that it moved, some thirty times what moving takes."""

DYING_MAX: Final = 4096
DYING_AT_ONCE: Final = 64
"""After so many dead contexts that were in use, the engine gets its turn."""

LOWER_ONLY_PER_BLOCK: Final = 4
"""Blocks that only lower tiers hold are remembered up to this many for each block of the device."""

ORIGINS_MAX: Final = 4096
"""Contexts of which it is remembered who brought them, and whether they outlive their branch."""


class LowerTier(Protocol):
    """A tier below the device, in the hands of another connector."""

    @property
    def tier(self) -> Tier: ...

    def holds(self, block_hash: bytes) -> bool: ...

    def watch(self, changed: Callable[[bytes], None]) -> None:
        """Has `changed` told of every block that comes or goes, as far as the tier hears of it."""
        ...

    def estimated(self, hashes: Sequence[bytes], name: Name) -> None:
        """Blocks were given the estimate of a name."""
        ...

    def released(self, hashes: Sequence[bytes]) -> None:
        """Blocks are dead."""
        ...


class Books:
    """What an engine knows of the contexts that its requests bring. Sans-IO: the time is passed in.

    Args:
        pool: the device's blocks.
        block_size: tokens per block of the group that is counted.
        lower: the tiers below, nearest first.
        budget: share of the device that estimates may keep beyond least-recently-used order, 0 to 1.
        scope_budget: the same for each scope alone.
        at_once: blocks that one step of the scheduler may take beyond what `prepare` was told.
    """

    def __init__(
        self,
        pool: DevicePool,
        block_size: int,
        lower: Sequence[LowerTier],
        *,
        budget: float,
        scope_budget: float,
        at_once: int,
    ) -> None:
        self.block_size = block_size
        self.pool = pool
        self.lower = tuple(lower)
        self.residency = Residency((Tier.DEVICE, *(below.tier for below in lower)))
        self.contexts = Contexts(block_size, self.residency, pool.in_use)
        self.budget = Budget(total=budget * pool.size, each_scope=scope_budget * pool.size)
        self.cleared = False
        """The cache was reset; for whoever tells of residency to take note of."""
        self._at_once = min(at_once, pool.size)
        self._uses: dict[str, Use] = {}
        self._owners: OrderedDict[tuple[bytes, str | None], tuple[str, str]] = OrderedDict()
        """Program and branch that first brought a context."""
        self._lasting: OrderedDict[tuple[bytes, str | None], None] = OrderedDict()
        self._below_only: OrderedDict[bytes, None] = OrderedDict()
        self._ended: list[tuple[Hints, list[Name], Fate]] = []
        self._dying: OrderedDict[Name, Name | None] = OrderedDict()
        self._ordered_version = 0
        self._ordered_at = -math.inf
        self._moved = 0
        """Blocks that were put in order then."""
        self._safe = 0
        """Blocks at the head of the queue that go before whatever has been freed since the order was made."""
        self._changes = 0
        """Blocks that have come and gone since."""
        for below in self.lower:
            below.watch(self.look)

    # --- what requests do

    def arrived(self, request_id: str, use: Use) -> None:
        self._uses[request_id] = use

    def known(self, request_id: str) -> Use | None:
        return self._uses.get(request_id)

    def advanced(self, request_id: str, tokens: int, now: float) -> bool:
        """Notes that the first `tokens` of a request are on the device, or will be when the step ends.

        Returns:
            Whether it has been the first time for this request.
        """
        use = self._uses.get(request_id)
        if use is None:
            return False
        first = not use.boundaries and bool(use.links)
        if first:
            use.boundaries = boundaries(
                use.links, len(use.prompt), use.hashes, self.contexts, use.scope, self.block_size
            )
        full = min(tokens // self.block_size, len(use.hashes))
        while full > use.registered and not self.pool.has(use.hashes[full - 1]):
            full -= 1
        if full > use.registered:
            began = len(use.names)
            self.contexts.advanced(use, full, now)
            for index in range(use.registered, full):
                # Where all attention slides, the blocks before the window are not kept.
                if not self.pool.has(use.hashes[index]):
                    self.look(use.hashes[index])
            use.registered = full
            self.contexts.used(use.hashes, full, now)
            self._own(use, use.names[began:])
        return first

    def preempted(self, request_id: str, now: float) -> None:
        use = self._uses.get(request_id)
        if use is not None:
            self._leave(use, now)

    def finished(self, request_id: str, now: float) -> None:
        """Notes that a request ends, and what its hints say of its context from now on."""
        use = self._uses.pop(request_id, None)
        if use is None:
            return
        names = list(use.names)
        self._leave(use, now)
        if use.hints is not None and names:
            # vLLM frees its blocks only now.
            self._ended.append((use.hints, names, fate(use.hints, now)))

    # --- what the pool does

    def settle(self, now: float) -> None:
        """Takes in what has come of the pool since, and sees to what it gives up next."""
        self._see_to_order(self._at_once, now, ORDER_S_PER_RUN)

    def prepare(self, blocks: int, now: float) -> None:
        """Sees to it that the pool gives up the right blocks next, for a request that takes so many."""
        blocks = min(blocks, self.pool.free)  # a request that does not fit yet is looked at in every step
        short = blocks > self._safe
        self._see_to_order(blocks, now, ORDER_S_PER_RUN / 5 if short else ORDER_S_PER_RUN)

    def take_evicted(self) -> None:
        """Takes in what the pool has given up since the last time."""
        given = self.pool.take_given()
        if given.cleared:
            for use in self._uses.values():
                use.names, use.registered, use.boundary = [], 0, 0
            self.contexts.clear()
            for forgotten in (self._below_only, self._dying, self._ended, self._owners, self._lasting):
                forgotten.clear()
            self.cleared = True
        self._safe -= given.taken
        self._changes += given.taken
        for block_hash in given.evicted:
            self.look(block_hash)

    def look(self, block_hash: bytes) -> None:
        """Looks where a block is now, after something has come of it."""
        if not self.contexts.has(block_hash):
            return
        level = self._level(block_hash)
        self.contexts.moved(block_hash, level)
        if 0 < level < self.contexts.gone:
            self._below_only[block_hash] = None
            if len(self._below_only) > LOWER_ONLY_PER_BLOCK * self.pool.size:
                oldest, _ = self._below_only.popitem(last=False)
                if self.contexts.has(oldest) and not self.pool.has(oldest):
                    self.contexts.moved(oldest, self.contexts.gone)
        else:
            self._below_only.pop(block_hash, None)

    def take_residency(self) -> tuple[ResidencyChange, ...]:
        return self.residency.take_changes()

    # --- what directives say

    def retain(self, directive: Retain, now: float) -> Answer:
        most = int(min(self.budget.total, self.budget.each_scope)) * self.block_size
        answer = retain(self.contexts, directive, now, most)
        for name in self.contexts.named(directive.digest, directive.scope):
            self._tell_estimate(name)
        return answer

    def release(self, directive: Release) -> Answer:
        names = self.contexts.named(directive.digest, directive.scope)
        answer = release(self.contexts, directive)
        for name in names:
            if name.dead:
                self._dead(name, prefix_named(name, directive.keep))
        return answer

    def retained(self, now: float) -> dict[str, int]:
        return self.contexts.retained(now)

    def retained_by_program(self, now: float) -> dict[str, int]:
        """Returns the tokens under an estimate by the program that brought them, of those that have most."""

        def whose(name: Name) -> str:
            return self._owners.get((name.digest, name.scope), ("", ""))[0]

        tokens = self.contexts.retained(now, whose)
        most = heapq.nlargest(PROGRAMS_SHOWN_MAX, tokens, key=lambda program: tokens[program])
        return {program: tokens[program] for program in most}

    def give_up(self, hashes: Sequence[bytes]) -> int:
        """Gives up the free blocks of these; returns how many of them are on the device still."""
        for block_hash in reversed(hashes):
            self.pool.evict(self.pool.free_blocks_of(block_hash))
        self.take_evicted()
        return sum(self.pool.has(block_hash) for block_hash in hashes)

    # --- inside

    def _leave(self, use: Use, now: float) -> None:
        # What a streaming session has taken back is none of it any more.
        use.registered = min(use.registered, len(use.hashes))
        self._changes += use.registered
        if use.registered and self.contexts.has(use.hashes[use.registered - 1]):
            self.contexts.left(use, now)
        else:
            for name in use.names:
                name.users -= 1
            use.names = []
        use.registered = use.boundary = 0

    def _level(self, block_hash: bytes) -> int:
        if self.pool.has(block_hash):
            return 0
        for index, below in enumerate(self.lower):
            if below.holds(block_hash):
                return index + 1
        return self.contexts.gone

    def _see_to_order(self, blocks: int, now: float, holds_s_per_run: float) -> None:
        self.take_evicted()
        self._end_what_has_ended()
        contexts = self.contexts
        if not (contexts.dead or contexts.estimated):
            return
        runs = len(contexts.runs)
        if 0 <= now - self._ordered_at < max(holds_s_per_run * runs, ORDER_S_PER_BLOCK * self._moved):
            return
        come_and_gone = blocks > self._safe and CHANGES_PER_RUN * self._changes > runs
        if come_and_gone or contexts.version != self._ordered_version:
            self._order(max(blocks, self._at_once), now)

    def _end_what_has_ended(self) -> None:
        # Whatever has been given up in the meantime is nobody's business any more.
        ended, self._ended = self._ended, []
        for hints, names, said in ended:
            if known := [name for name in names if self.contexts.knows(name)]:
                self._foretell(hints, known, said)
        for _ in range(min(len(self._dying), DYING_AT_ONCE)):
            name, keep = self._dying.popitem(last=False)
            if not name.dead or not self.contexts.knows(name):
                continue
            if self.pool.in_use(name.run.blocks[-1]):
                self._dying[name] = keep  # it is being copied to a tier below, for one
            else:
                self._die(name, keep)

    def _order(self, blocks: int, now: float) -> None:
        """Puts what is to go next at the head of the pool's queue, after the blocks that hold nothing."""
        self.contexts.forget_expired(now)
        empty = self.pool.empty_ahead(blocks)
        ahead = len(empty)
        self._moved = 0
        if ahead < blocks:
            found, unestimated = self._next_to_go(blocks - ahead, now)
            self.pool.give_up_next([*empty, *found])
            self._moved = len(empty) + len(found)
            ahead += unestimated
        self._safe = ahead
        self._ordered_version = self.contexts.version
        self._ordered_at = now
        self._changes = 0

    def _next_to_go(self, count: int, now: float) -> "tuple[list[KVCacheBlock], int]":
        """Returns free blocks in the order of eviction, and how many of them, from the first on, are under no
        estimate: what is freed later goes after those in any case."""
        sizes: dict[Run, int] = {}
        for run in self.contexts.runs:
            here = len(run.blocks) - run.missing[0]
            if here and not self.pool.in_use(run.blocks[-1]):
                sizes[run] = here
        found: dict[int, KVCacheBlock] = {}
        unestimated: int | None = None
        for run in reversed(ranking(sizes, now, self.budget)):
            if unestimated is None and run.estimates and not run.dead:
                unestimated = len(found)
            for block_hash in reversed(run.blocks):
                for block in self.pool.free_blocks_of(block_hash):
                    found.setdefault(block.block_id, block)
            if len(found) >= count:
                break
        return list(found.values()), len(found) if unestimated is None else unestimated

    def _own(self, use: Use, names: Sequence[Name]) -> None:
        if use.hints is None:
            return
        lasting = {
            segment.digest for segment in use.hints.segments if outlives_branch(segment.effective_lifetime)
        }
        for name in names:
            key = (name.digest, name.scope)
            if name.digest in lasting:
                self._lasting[key] = None
            self._owners.setdefault(key, _branch(use.hints))
        for remembered in (self._lasting, self._owners):
            while len(remembered) > ORIGINS_MAX:
                remembered.popitem(last=False)

    def _foretell(self, hints: Hints, names: Sequence[Name], said: Fate) -> None:
        tip = names[-1]
        if said.ends:
            self._die(tip, self._outliving(hints, names))
            return
        kept = next((name for name in reversed(names) if name.digest == said.kept), None)
        if kept is not None and kept is not tip:
            self._die(tip, kept)
            tip = kept
        if said.estimate is not None:
            self.contexts.retain(tip, said.estimate)
            self._tell_estimate(tip)

    def _die(self, name: Name, keep: Name | None) -> None:
        self.contexts.release(name, keep)
        self._dead(name, keep)

    def _dead(self, name: Name, keep: Name | None) -> None:
        if name.dead and self.pool.in_use(name.run.blocks[-1]):
            self._dying[name] = keep
            if len(self._dying) > DYING_MAX:
                self._dying.popitem(last=False)
        else:
            self._tell_death(name)

    def _outliving(self, hints: Hints, names: Sequence[Name]) -> Name | None:
        """Returns the longest context that lives on when a branch ends: what others brought, or what was
        declared to matter longer."""
        for name in reversed(names):
            key = (name.digest, name.scope)
            if self._owners.get(key) != _branch(hints) or key in self._lasting:
                return name
        return None

    def _tell_estimate(self, name: Name) -> None:
        for below in self.lower:
            below.estimated(self.contexts.path(name), name)

    def _tell_death(self, name: Name) -> None:
        if not self.lower:
            return
        dead = [
            block_hash
            for block_hash in self.contexts.path(name)
            if self.contexts.has(block_hash) and self.contexts.run_of(block_hash).dead
        ]
        for below in self.lower:
            below.released(dead)


def _branch(hints: Hints) -> tuple[str, str]:
    return hints.program.id, hints.step.branch
