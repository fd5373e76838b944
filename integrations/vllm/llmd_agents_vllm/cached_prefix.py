"""How much of a waiting request's prompt the engine holds: an estimate that costs a few look-ups.

vLLM's own look-up walks the prefix block by block, which is too much to repeat for a whole queue. Blocks are
evicted from a prefix's end, so the boundary between present and missing ones is sought from where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import Request


class CachedPrefix(Protocol):
    """Counts in blocks of a request's prompt, from its start."""

    @property
    def block_size(self) -> int:
        """Tokens."""
        ...

    def present(self, request: Request, before: int) -> int:
        """Returns how many blocks are cached; `before` is the answer last time."""
        ...

    def next_missing(self, request: Request, present: int) -> bytes | None:
        """Returns the hash of the first block after the `present` ones; None if it could not be used."""
        ...


@dataclass(frozen=True, slots=True)
class EnginePrefix:
    """Asks vLLM's block pool, which counts neither as a use nor as a query, and what is known of lower tiers.

    It looks at the full-attention layers alone, whose blocks are cached from the start of a prompt on.
    """

    block_size: int
    _cache: KVCacheManager
    _groups: list[int]
    _scale: int
    """Hashes per block; each hash covers the whole prefix before it."""
    _loadable: Callable[[bytes], bool] | None
    """Whether a block could be loaded, by its hash."""

    @classmethod
    def of(
        cls, cache: KVCacheManager, hash_block_size: int, loadable: Callable[[bytes], bool] | None = None
    ) -> Self | None:
        """Returns None for a cache without prefixes or full attention, where nothing counts as cached."""
        managers = [
            manager
            for manager in cache.coordinator.single_type_managers
            if isinstance(manager, FullAttentionManager)
        ]
        if not managers or not cache.enable_caching:
            return None
        size = managers[0].block_size
        return cls(size, cache, [managers[0].kv_cache_group_id], size // hash_block_size, loadable)

    def present(self, request: Request, before: int) -> int:
        if not self._cache.prefix_cache_lookup_enabled(request):
            return 0
        pool, hashes, scale = self._cache.block_pool, request.block_hashes, self._scale

        def present(index: int) -> bool:
            block = hashes[(index + 1) * scale - 1]
            if pool.get_cached_block(block, self._groups) is not None:
                return True
            return self._loadable is not None and self._loadable(block)

        return boundary(self._usable(request), before, present)

    def next_missing(self, request: Request, present: int) -> bytes | None:
        if present >= self._usable(request):
            return None
        found: Any = request.block_hashes[(present + 1) * self._scale - 1]
        return bytes(found)

    def _usable(self, request: Request) -> int:
        """vLLM computes at least the last token, whatever is cached."""
        return int(min(len(request.block_hashes) // self._scale, (request.num_tokens - 1) // self.block_size))


def boundary(total: int, before: int, present: Callable[[int], bool]) -> int:
    """Returns how many of `total` are present, assuming that none is missing before a present one.

    Args:
        before: the answer last time; while it holds it costs two calls, else about log2(total).
        present: whether the one at an index is.
    """
    low, high = 0, total
    guess = min(before, total)
    if guess > 0:
        if present(guess - 1):
            low = guess
        else:
            high = guess - 1
    if low == guess and low < total:
        if not present(low):
            return low
        low += 1
    while low < high:
        middle = (low + high) // 2
        if present(middle):
            low = middle + 1
        else:
            high = middle
    return low
