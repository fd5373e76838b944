"""A tier below the device: what it holds, and which of it is given up once it is full."""

from collections.abc import Callable
from typing import Final

from llmd_agents.hints import Tier

from .eviction import Block, EvictionOrder


class LowerTier:
    """Holds blocks by their hash.

    Args:
        num_blocks: blocks that it can hold, at least one.
        order: which of them is given up next.
        on_evicted: told of the hash of every block that is given up.
    """

    def __init__(
        self, tier: Tier, num_blocks: int, order: EvictionOrder, on_evicted: Callable[[bytes], None]
    ) -> None:
        self.tier: Final = tier
        self.num_blocks: Final = num_blocks
        self._order = order
        self._on_evicted = on_evicted
        self._blocks: dict[bytes, Block] = {}
        self._taken = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._blocks

    def put(self, block_hash: bytes, now: float) -> None:
        """Takes a block in, or refreshes it if it is there."""
        if block_hash in self._blocks:
            self.refresh(block_hash)
            return
        victim = self._order.pop(now) if len(self._blocks) == self.num_blocks else None
        self._taken += 1
        block = self._blocks[block_hash] = Block(self._taken, 0, block_hash)
        self._order.add(block)
        # Only now, since room for it may be made at the cost of a copy of this block further down.
        if victim is not None:
            assert victim.hash is not None
            del self._blocks[victim.hash]
            self._on_evicted(victim.hash)

    def refresh(self, block_hash: bytes) -> None:
        """Counts a use of a block."""
        block = self._blocks[block_hash]
        self._order.discard(block)
        self._order.add(block)

    def clear(self, now: float) -> None:
        while len(self._order):
            self._order.pop(now)
        self._blocks.clear()
