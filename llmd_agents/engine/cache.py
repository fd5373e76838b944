"""The prefix cache as requests see it, after vLLM's `v1/core/kv_cache_manager.py` for full attention."""

from .blocks import BlockPool, extend_hashes
from .eviction import Block, EvictionOrder
from .records import CacheReset, Evicted, Listener
from .request import Progress
from .residency import Residency


class PrefixCache:
    """Finds, grows and gives back the blocks of requests, and tells residency and listener what changes."""

    def __init__(
        self, block_size: int, num_blocks: int, order: EvictionOrder, listener: Listener | None
    ) -> None:
        self.block_size = block_size
        self.pool = BlockPool(num_blocks, order, self._evicted)
        self.residency = Residency(block_size)
        self._listener = listener

    def lookup(self, progress: Progress) -> list[Block]:
        """Returns the cached blocks that a request which holds none would start from.

        The last known token is always computed, for its logits, so that a hit ends before it.
        """
        size = self.block_size
        self._hash(progress, progress.known // size)
        return self.pool.hits(progress.hashes, (progress.known - 1) // size)

    def cached_tokens(self, progress: Progress) -> int:
        return len(self.lookup(progress)) * self.block_size

    def fits(self, progress: Progress, hits: list[Block]) -> bool:
        """Whether all known tokens of the request would find room beside those of the running ones."""
        revived = sum(block.users == 0 for block in hits)
        return -(-progress.known // self.block_size) - len(hits) + revived <= self.pool.free

    def adopt(self, progress: Progress, hits: list[Block]) -> None:
        """Lets the request start from the blocks that `lookup` returned."""
        self.pool.touch(hits)
        progress.blocks = hits
        progress.registered = len(hits)
        progress.computed = len(hits) * self.block_size
        progress.boundary = 0
        self.residency.reached(progress)

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
            blocks += self.pool.allocate(missing)
        full = end // size
        if full > progress.registered:
            self._hash(progress, full)
            register = self.pool.register
            hashes = progress.hashes
            for index in range(progress.registered, full):
                register(blocks[index], hashes[index])
            progress.registered = full
            self.residency.reached(progress)
        return True

    def release(self, progress: Progress) -> None:
        """Takes all blocks from the request."""
        self.pool.release(progress.blocks)
        progress.blocks = []
        progress.registered = progress.computed = progress.boundary = 0

    def reset(self) -> bool:
        """Forgets everything cached; does nothing and returns False while requests hold blocks."""
        if not self.pool.reset():
            return False
        self.residency.clear()
        if self._listener is not None:
            self._listener(CacheReset())
        return True

    def _hash(self, progress: Progress, blocks: int) -> None:
        if blocks > len(progress.hashes):
            extend_hashes(progress.hashes, progress.request.root, progress.tokens, self.block_size, blocks)

    def _evicted(self, block_hash: bytes, last: bool) -> None:
        if last:
            self.residency.evicted(block_hash)
        if self._listener is not None:
            self._listener(Evicted(block_hash, last))
