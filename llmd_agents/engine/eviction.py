"""The order in which cached blocks that nobody uses are given up: a value passed to the engine."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True, eq=False)
class Block:
    """One block of KV cache.

    Attributes:
        id: position in the pool; 0 is the null block, as in vLLM.
        users: running requests that hold the block; 0 means that it is free.
        hash: names the block's tokens and everything before them; None while it is not full or holds nothing.
    """

    id: int
    users: int = 0
    hash: bytes | None = None


class EvictionOrder(Protocol):
    """Holds the free blocks that still carry cached tokens, and picks which of them is given up next.

    The pool calls `add` when the last user of a hashed block leaves (the tail of a request first), `discard`
    when a held block is used again, and `pop` when it needs a block and has no empty one. An instance belongs
    to one pool.
    """

    def add(self, block: Block) -> None: ...

    def discard(self, block: Block) -> None: ...

    def pop(self, now: float) -> Block:
        """Removes and returns the block to give up; called only while at least one is held.

        Args:
            now: modelled time, in seconds.
        """
        ...

    def __len__(self) -> int: ...


class LeastRecentlyUsed:
    """vLLM's order: blocks are given up in the order in which they became free."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    def add(self, block: Block) -> None:
        self._blocks[block.id] = block

    def discard(self, block: Block) -> None:
        del self._blocks[block.id]

    def pop(self, now: float) -> Block:
        return self._blocks.popitem(last=False)[1]

    def __len__(self) -> int:
        return len(self._blocks)
