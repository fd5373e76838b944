"""vLLM's block pool, as far as the order of eviction concerns it. Everything private to vLLM is used here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.v1.core.kv_cache_utils import get_block_hash, get_group_id, make_block_hash_with_group_id

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import KVCacheBlock


class DevicePool:
    """Finds and reorders the free blocks of a pool.

    A context is there while the blocks of `main_group` are; blocks of other groups (sliding windows, for
    one) go with those of the same hash.

    Args:
        groups: all KV cache groups.
        main_group: the one whose blocks are counted, of full attention if there is one.
    """

    def __init__(self, pool: "BlockPool", groups: Sequence[int], main_group: int) -> None:
        self._pool = pool
        self._main = main_group
        self._groups = (main_group, *(group for group in groups if group != main_group))
        self._watcher = _Watcher(pool.metrics_collector, main_group)
        pool.metrics_collector = self._watcher

    def close(self) -> None:
        """Leaves the pool as it was found."""
        if self._pool.metrics_collector is self._watcher:
            self._pool.metrics_collector = self._watcher.collector

    @property
    def size(self) -> int:
        """Blocks that requests can use: one is the null block."""
        return int(self._pool.num_gpu_blocks) - 1

    @property
    def free(self) -> int:
        return int(self._pool.get_num_free_blocks())

    @property
    def cached_or_used(self) -> int:
        """Blocks that requests hold, and free ones that hold context still (a hash in two copies once)."""
        in_use = self.size - self.free
        return min(self.size, max(in_use, len(self._pool.cached_block_hash_to_block)))

    def take_given(self) -> "Given":
        """Returns what has become of the pool's blocks since the last call."""
        return self._watcher.take()

    def has(self, block_hash: bytes) -> bool:
        return self._block(block_hash, self._main) is not None

    def in_use(self, block_hash: bytes) -> bool:
        block = self._block(block_hash, self._main)
        return block is not None and block.ref_cnt > 0

    def empty_ahead(self, most: int) -> "list[KVCacheBlock]":
        """Returns the blocks at the head of the queue that hold nothing, up to `most`."""
        queue = self._pool.free_block_queue
        found: list[KVCacheBlock] = []
        block = queue.fake_free_list_head.next_free_block
        while len(found) < most and block is not None and block is not queue.fake_free_list_tail:
            if block.block_hash is not None:
                break
            found.append(block)
            block = block.next_free_block
        return found

    def free_blocks_of(self, block_hash: bytes) -> "list[KVCacheBlock]":
        """Returns the free blocks with a hash, of all groups."""
        blocks = [self._block(block_hash, group) for group in self._groups]
        return [block for block in blocks if block is not None and block.ref_cnt == 0 and not block.is_null]

    def give_up_next(self, blocks: "Sequence[KVCacheBlock]") -> None:
        """Moves free blocks to the head of the queue; the first of them is given up next."""
        queue = self._pool.free_block_queue
        for block in blocks:
            queue.remove(block)
        queue.prepend_n(list(blocks))

    def evict(self, blocks: "Sequence[KVCacheBlock]") -> None:
        """Forgets what free blocks hold, and puts them to use before any that hold something."""
        self._pool.evict_blocks({block.block_id for block in blocks})
        self.give_up_next(blocks)

    def _block(self, block_hash: bytes, group: int) -> "KVCacheBlock | None":
        key = make_block_hash_with_group_id(block_hash, group)
        return self._pool.cached_block_hash_to_block.get_one_block(key)


@dataclass(slots=True)
class Given:
    """
    Attributes:
        taken: blocks that requests have taken from the queue, for what they hold or for new content.
        evicted: hashes of those that held context.
        cleared: the whole cache was reset, before all of that.
    """

    taken: int = 0
    evicted: list[bytes] = field(default_factory=list)
    cleared: bool = False


class _Watcher:
    """Stands in the place of the pool's metrics collector, and passes on what that is told."""

    def __init__(self, collector: Any, group: int) -> None:
        self.collector = collector
        self._group = group
        self._given = Given()

    def take(self) -> Given:
        given, self._given = self._given, Given()
        return given

    def on_block_evicted(self, block: "KVCacheBlock") -> None:
        key = block.block_hash
        if key is not None and get_group_id(key) == self._group:
            self._given.evicted.append(get_block_hash(key))
        self._pass_on("on_block_evicted", block)

    def on_block_allocated(self, block: "KVCacheBlock") -> None:
        self._given.taken += 1
        self._pass_on("on_block_allocated", block)

    def on_block_accessed(self, block: "KVCacheBlock") -> None:
        self._given.taken += block.ref_cnt == 1  # it was free until now
        self._pass_on("on_block_accessed", block)

    def reset(self) -> None:
        self._given = Given(cleared=True)
        if self.collector is not None:
            self.collector.reset()

    def __getattr__(self, name: str) -> Any:
        # What later versions of vLLM may ask of a collector.
        return getattr(self.collector, name)

    def _pass_on(self, method: str, block: "KVCacheBlock") -> None:
        if self.collector is not None:
            act: Callable[[KVCacheBlock], None] = getattr(self.collector, method)
            act(block)
