"""The prefix cache as requests see it, after vLLM's `v1/core/kv_cache_manager.py` for full attention."""

from collections.abc import Sequence

from llmd_agents.cache_index import Contexts, Name, Residency
from llmd_agents.hints import Tier

from .blocks import BlockPool, extend_hashes
from .eviction import Block, EvictionOrder, LeastRecentlyUsed
from .export import Boundary
from .profile import EngineProfile
from .records import CacheReset, Evicted, Listener
from .request import Progress
from .retention import ByNextUse
from .tiers import LowerTier


class PrefixCache:
    """Finds, grows and gives back the blocks of requests, and tells contexts and listener what changes.

    Args:
        order: of the device's blocks. A `ByNextUse` is bound to the contexts, and the lower tiers get one of
            their own each; with any other order they are least recently used.
        retention_budget: share of a tier that estimates may keep beyond least-recently-used order.
        protect_waiting: keep what waiting requests would hit until all else is given up.
    """

    def __init__(
        self,
        profile: EngineProfile,
        order: EvictionOrder,
        listener: Listener | None,
        *,
        retention_budget: float,
        protect_waiting: bool,
    ) -> None:
        self.block_size = profile.block_size
        self.now = 0.0
        """Modelled time; the core sets it before anything else happens."""
        self.pool = BlockPool(profile.num_blocks, order, self._evicted)
        sizes = {Tier.HOST: profile.host_blocks, Tier.STORAGE: profile.storage_blocks}
        below = [(tier, blocks) for tier, blocks in sizes.items() if blocks]
        self.residency = Residency((Tier.DEVICE, *(tier for tier, _ in below)))
        self.contexts = Contexts(self.block_size, self.residency, self.pool.in_use)
        self.budget = int(retention_budget * self.pool.usable)
        """Blocks of the device that estimates may keep."""
        self.follows_estimates = isinstance(order, ByNextUse)
        self._dearer = profile.dearer_per_block
        if isinstance(order, ByNextUse):
            order.bind(self.contexts, 0, self.budget, self._dearer)
        self.tiers: list[LowerTier] = []
        for level, (tier, blocks) in enumerate(below):
            self.tiers.append(self._tier(tier, blocks, level, retention_budget))
        self._sink_to = 0
        self._protects = protect_waiting
        self._listener = listener

    def lookup(self, progress: Progress) -> list[Block]:
        """Returns the cached blocks that a request which holds none would start from.

        The last known token is always computed, for its logits, so that a hit ends before it.
        """
        size = self.block_size
        self._hash(progress, progress.known // size)
        return self.pool.hits(progress.hashes, (progress.known - 1) // size)

    def cached_tokens(self, progress: Progress) -> int:
        """Returns how much of a waiting request need not be computed: it is on the device or in a lower tier.

        Goes on from what it found the last time, and trusts that a prefix is given up after its ends.
        """
        size = self.block_size
        if not progress.hashes:
            self._hash(progress, progress.known // size)
        hashes, has = progress.hashes, self.contexts.has
        most = min((progress.known - 1) // size, len(hashes))
        count = progress.hits
        if count and not has(hashes[count - 1]):
            low, count = 0, count - 1
            while low < count:
                middle = (low + count + 1) // 2
                if has(hashes[middle - 1]):
                    low = middle
                else:
                    count = middle - 1
        while count < most and has(hashes[count]):
            count += 1
        progress.hits = count
        if self._protects and count > progress.protected:
            self.pool.protect(hashes[progress.protected : count])
            progress.protected = count
        return count * size

    def arrived(self, progress: Progress) -> None:
        """Begins to protect what a new request would hit, if waiting requests are protected."""
        if self._protects:
            self.cached_tokens(progress)

    def fits(self, progress: Progress, hits: list[Block]) -> bool:
        """Whether all known tokens of the request would find room beside those of the running ones."""
        revived = sum(block.users == 0 for block in hits)
        return -(-progress.known // self.block_size) - len(hits) + revived <= self.pool.free

    def adopt(self, progress: Progress, hits: list[Block]) -> None:
        """Lets the request start from the blocks that `lookup` returned."""
        self.pool.touch(hits)
        self._unprotect(progress)
        progress.blocks = hits
        progress.registered = len(hits)
        progress.computed = len(hits) * self.block_size
        progress.boundary = 0
        self.contexts.adopted(progress, self.now)

    def grow(self, progress: Progress, end: int) -> bool:
        """Gives the request room for its first `end` tokens and caches the blocks that they fill.

        Returns:
            False, with nothing changed, if too few blocks are free.
        """
        size = self.block_size
        blocks = progress.blocks
        missing = -(-end // size) - len(blocks)
        if missing > 0:
            if missing > self.pool.free:
                return False
            blocks += self.pool.allocate(missing, self.now)
        full = end // size
        if full > progress.registered:
            self._hash(progress, full)
            register = self.pool.register
            hashes = progress.hashes
            for index in range(progress.registered, full):
                register(blocks[index], hashes[index])
            self.contexts.advanced(progress, full, self.now)
            progress.registered = full
        return True

    def release(self, progress: Progress) -> None:
        """Takes all blocks from the request."""
        self._unprotect(progress)
        self.contexts.left(progress, self.now)
        self.pool.release(progress.blocks)
        progress.blocks = []
        progress.registered = progress.computed = progress.boundary = 0

    def reset(self) -> bool:
        """Forgets everything cached; does nothing and returns False while requests hold blocks."""
        if not self.pool.reset(self.now):
            return False
        for tier in self.tiers:
            tier.clear(self.now)
        self.contexts.clear()
        if self._listener is not None:
            self._listener(CacheReset())
        return True

    def loaded(
        self, path: Sequence[bytes], indices: Sequence[int], boundaries: Sequence[Boundary], scope: str | None
    ) -> None:
        """Notes that blocks of a prompt have been read from elsewhere and registered.

        Args:
            path: hashes of the prompt's blocks, from its first on.
            indices: which of them were read.
            boundaries: digests to be known from now on, in `scope`.
        """
        contexts, size = self.contexts, self.block_size
        start = 0
        for at in range(1, len(indices) + 1):
            if at == len(indices) or indices[at] != indices[at - 1] + 1:
                contexts.place(path, indices[start], indices[at - 1] + 1, None, self.now)
                start = at
        parent: Name | None = None
        for boundary in boundaries:
            if 0 < boundary.tokens // size <= indices[-1] + 1:
                parent = contexts.name(path, boundary.digest, boundary.tokens, scope, parent)
        contexts.used(path, indices[-1] + 1, self.now)

    def demote(self, hashes: Sequence[bytes], tier: Tier) -> int:
        """Moves free blocks from the device to a lower tier, the last of `hashes` first.

        Returns:
            How many of `hashes` are on the device still, because they are in use or protected.
        """
        left = 0
        self._sink_to = self.residency.tiers.index(tier) - 1
        for block_hash in reversed(hashes):
            if self.pool.is_cached(block_hash):
                copies = self.pool.free_copies(block_hash)
                left += not copies
                for block in copies:
                    self.pool.give_up(block)
        self._sink_to = 0
        return left

    def tier_of(self, block_hash: bytes) -> LowerTier | None:
        """Returns the first lower tier that holds a block."""
        for tier in self.tiers:
            if block_hash in tier:
                return tier
        return None

    def _tier(self, tier: Tier, blocks: int, index: int, retention_budget: float) -> LowerTier:
        order: EvictionOrder = LeastRecentlyUsed()
        if self.follows_estimates:
            order = ByNextUse()
            order.bind(self.contexts, index + 1, retention_budget * blocks, self._dearer)
        return LowerTier(tier, blocks, order, lambda block_hash: self._sink(block_hash, index + 1))

    def _unprotect(self, progress: Progress) -> None:
        if progress.protected:
            self.pool.unprotect(progress.hashes[: progress.protected])
            progress.protected = 0

    def _hash(self, progress: Progress, blocks: int) -> None:
        if blocks > len(progress.hashes):
            extend_hashes(progress.hashes, progress.request.root, progress.tokens, self.block_size, blocks)

    def _evicted(self, block_hash: bytes, last: bool) -> None:
        if last:
            self._sink(block_hash, self._sink_to)
        if self._listener is not None:
            self._listener(Evicted(block_hash, last))

    def _sink(self, block_hash: bytes, index: int) -> None:
        """A block has left what is above the lower tier `index`: that tier takes it in, if it is alive."""
        if index < len(self.tiers) and not self.contexts.run_of(block_hash).dead:
            self.tiers[index].put(block_hash, self.now)
        self.contexts.moved(block_hash, self._level(block_hash))

    def _level(self, block_hash: bytes) -> int:
        if self.pool.is_cached(block_hash):
            return 0
        for index, tier in enumerate(self.tiers):
            if block_hash in tier:
                return index + 1
        return len(self.tiers) + 1
