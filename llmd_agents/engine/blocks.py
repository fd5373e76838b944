"""The pool of KV-cache blocks, after vLLM's `v1/core/block_pool.py`.

A free block is either empty (not hashed) or cached. Empty ones are taken first, last freed first; then cached
ones in the `EvictionOrder` given. Blocks that came to hold the same tokens are not merged: the first of them
serves hits, the next takes its place when it goes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from xxhash import xxh3_128_digest

from .eviction import Block, EvictionOrder
from .tokenizer import BYTES_PER_TOKEN

_DOMAIN: Final = b"llmd-agents embedded engine 1\n"

EvictionWatcher = Callable[[bytes, bool], None]
"""Called with the hash of a block that was given up, and whether no other block holds the same tokens."""


def cache_root(model: str, cache_salt: str | None = None) -> bytes:
    """Returns what the first block's hash extends: requests share blocks only under an equal root."""
    name = model.encode("utf-8", "surrogatepass")
    salt = b"" if cache_salt is None else b"\xff" + cache_salt.encode("utf-8", "surrogatepass")
    return xxh3_128_digest(_DOMAIN + name + salt)


def extend_hashes(hashes: list[bytes], root: bytes, tokens: bytes, block_size: int, blocks: int) -> None:
    """Extends `hashes`, those of a request's first full blocks, to `blocks` of them.

    A block's hash is H(hash of the block before + its own tokens), H = xxh3-128.
    """
    size = BYTES_PER_TOKEN * block_size
    digest = hashes[-1] if hashes else root
    append = hashes.append
    for start in range(len(hashes) * size, blocks * size, size):
        digest = xxh3_128_digest(digest + tokens[start : start + size])
        append(digest)


class BlockPool:
    """Hands out, shares and takes back blocks.

    Args:
        num_blocks: blocks in the pool. As in vLLM one of them is the null block, which is never handed out.
        order: which cached block is given up next.
        on_evicted: told of every cached block that is given up.
    """

    def __init__(self, num_blocks: int, order: EvictionOrder, on_evicted: EvictionWatcher) -> None:
        if num_blocks < 2:
            raise ValueError(f"num_blocks must be at least 2, not {num_blocks}")
        self.blocks: Final = tuple(Block(index) for index in range(num_blocks))
        self.usable: Final = num_blocks - 1
        self.changes = 0
        """Counts what can turn a refused admission into a possible one: blocks freed or newly cached."""
        self._order = order
        self._on_evicted = on_evicted
        self._empty = list(self.blocks[:0:-1])  # a stack: the next block to hand out is the last
        self._wanted: dict[bytes, int] = {}
        self._protected: dict[int, Block] = {}  # a stack as well
        self._cached: dict[bytes, Block] = {}
        self._duplicates: dict[bytes, dict[int, Block]] = {}

    @property
    def free(self) -> int:
        return len(self._empty) + len(self._order) + len(self._protected)

    @property
    def empty(self) -> int:
        return len(self._empty)

    @property
    def protected(self) -> int:
        """Free blocks that are given up last of all."""
        return len(self._protected)

    @property
    def usage(self) -> float:
        """Share of the blocks that requests hold, 0 to 1."""
        return 1.0 - self.free / self.usable

    def hits(self, hashes: Sequence[bytes], most: int) -> list[Block]:
        """Returns the cached blocks for the longest run of `hashes` from the start, at most `most`."""
        found: list[Block] = []
        get = self._cached.get
        for block_hash in hashes if len(hashes) <= most else hashes[:most]:
            block = get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def is_cached(self, block_hash: bytes) -> bool:
        return block_hash in self._cached

    def in_use(self, block_hash: bytes) -> bool:
        """Returns whether a request holds a block with these tokens."""
        block = self._cached.get(block_hash)
        if block is None or block.users:
            return block is not None
        return any(other.users for other in self._duplicates.get(block_hash, {}).values())

    def free_copies(self, block_hash: bytes) -> list[Block]:
        """Returns the free blocks with these tokens; none if one with them is in use or protected."""
        if block_hash in self._wanted or self.in_use(block_hash) or block_hash not in self._cached:
            return []
        return [*self._duplicates.get(block_hash, {}).values(), self._cached[block_hash]]

    def touch(self, blocks: Iterable[Block]) -> None:
        """Adds a user to each of these cached blocks."""
        discard = self._discard if self._protected else self._order.discard
        for block in blocks:
            if block.users == 0:
                discard(block)
            block.users += 1

    def protect(self, hashes: Iterable[bytes]) -> None:
        """Lets the blocks with these tokens be given up after all others, until `unprotect`.

        Args:
            hashes: in the order of a request's tokens; among the protected the last is given up first.
        """
        wanted = self._wanted
        for block_hash in hashes:
            count = wanted.get(block_hash, 0)
            wanted[block_hash] = count + 1
            if not count and (block := self._cached.get(block_hash)) is not None and not block.users:
                self._order.discard(block)
                self._protected[block.id] = block

    def unprotect(self, hashes: Sequence[bytes]) -> None:
        """Takes back one `protect` of the same hashes; the blocks count as just freed."""
        wanted = self._wanted
        for block_hash in reversed(hashes):
            count = wanted.pop(block_hash)
            if count > 1:
                wanted[block_hash] = count - 1
            elif (block := self._cached.get(block_hash)) is not None and block.id in self._protected:
                del self._protected[block.id]
                self._order.add(block)

    def allocate(self, count: int, now: float) -> list[Block]:
        """Hands out blocks, giving up cached ones once the empty ones run out.

        Args:
            now: modelled time, in seconds.

        Raises:
            ValueError: if fewer than `count` blocks are free.
        """
        if count > self.free:
            raise ValueError(f"{count} blocks asked for, {self.free} free")
        allocated: list[Block] = []
        empty = self._empty
        for _ in range(count):
            if empty:
                block = empty.pop()
            else:
                block = self._order.pop(now) if len(self._order) else self._protected.popitem()[1]
                self._forget(block)
            block.users = 1
            allocated.append(block)
        return allocated

    def give_up(self, block: Block) -> None:
        """Forgets what a free cached block holds."""
        self._discard(block)
        self._forget(block)
        self._empty.append(block)
        self.changes += 1

    def register(self, block: Block, block_hash: bytes) -> None:
        """Makes a block that has become full findable."""
        self.changes += 1
        block.hash = block_hash
        if block_hash in self._cached:
            self._duplicates.setdefault(block_hash, {})[block.id] = block
        else:
            self._cached[block_hash] = block

    def release(self, blocks: Sequence[Block]) -> None:
        """Takes a user off each block of a request, which come in the order of its tokens.

        Its tail is given up first: without what precedes it, it could not be hit.
        """
        self.changes += 1
        add, wanted = self._order.add, self._wanted
        protected: list[Block] = []
        for block in reversed(blocks):
            block.users -= 1
            if block.users == 0 and block.hash is not None:
                if wanted and block.hash in wanted and self._cached[block.hash] is block:
                    protected.append(block)
                else:
                    add(block)
        for block in reversed(protected):
            self._protected[block.id] = block
        self._empty += [block for block in blocks if block.hash is None and block.users == 0]

    def reset(self, now: float) -> bool:
        """Forgets everything that is cached; does nothing and returns False while requests hold blocks."""
        if self.free != self.usable:
            return False
        cached = [self._order.pop(now) for _ in range(len(self._order))]
        cached += self._protected.values()
        self._protected.clear()
        for block in cached:
            block.hash = None
        self._empty[:0] = reversed(cached)  # the order in which vLLM would take them
        self._cached.clear()
        self._duplicates.clear()
        self.changes += 1
        return True

    def _discard(self, block: Block) -> None:
        if self._protected.pop(block.id, None) is None:
            self._order.discard(block)

    def _forget(self, block: Block) -> None:
        block_hash = block.hash
        assert block_hash is not None
        block.hash = None
        others = self._duplicates.get(block_hash)
        last = others is None
        if others is None:
            del self._cached[block_hash]
        else:
            if self._cached[block_hash] is block:
                self._cached[block_hash] = others.pop(next(iter(others)))
            else:
                del others[block.id]
            if not others:
                del self._duplicates[block_hash]
        self._on_evicted(block_hash, last)
