"""Exact blocks and eviction orders, as in vLLM's `tests/v1/core/test_prefix_caching.py`."""

import pytest

from llmd_agents.engine import Block, LeastRecentlyUsed, cache_root
from llmd_agents.engine.blocks import BlockPool, extend_hashes


class Pool(BlockPool):
    """A pool that remembers what it gave up."""

    def __init__(self, num_blocks: int) -> None:
        self.evicted: list[tuple[bytes, bool]] = []
        super().__init__(num_blocks, LeastRecentlyUsed(), lambda *what: self.evicted.append(what))

    def fill(self, *hashes: bytes) -> list[Block]:
        blocks = self.allocate(len(hashes), 0.0)
        for block, block_hash in zip(blocks, hashes, strict=True):
            self.register(block, block_hash)
        return blocks


def ids(blocks: list[Block]) -> list[int]:
    return [block.id for block in blocks]


def test_null_block_is_never_handed_out() -> None:
    pool = Pool(5)

    assert (pool.usable, pool.free, pool.usage) == (4, 4, 0.0)
    assert ids(pool.allocate(4, 0.0)) == [1, 2, 3, 4]
    assert (pool.free, pool.usage) == (0, 1.0)
    with pytest.raises(ValueError, match="1 blocks asked for, 0 free"):
        pool.allocate(1, 0.0)


def test_empty_blocks_go_before_cached_ones_last_freed_first() -> None:
    pool = Pool(6)
    cached, empty = pool.fill(b"a", b"b"), pool.allocate(2, 0.0)

    pool.release(cached)
    pool.release(empty)

    assert ids(pool.allocate(3, 0.0)) == [4, 3, 5]
    assert pool.evicted == []
    assert ids(pool.allocate(2, 0.0)) == [2, 1]
    assert pool.evicted == [(b"b", True), (b"a", True)]


def test_least_recently_used_request_goes_first_and_its_tail_before_its_head() -> None:
    pool = Pool(7)
    old, new = pool.fill(b"a", b"b", b"c"), pool.fill(b"x", b"y", b"z")
    pool.release(old)
    pool.release(new)

    pool.touch(pool.hits([b"a", b"b", b"?"], 3))
    pool.release(old[:2])
    pool.allocate(6, 0.0)

    assert [block_hash for block_hash, _ in pool.evicted] == [b"c", b"z", b"y", b"x", b"b", b"a"]


def test_used_blocks_are_shared_and_not_given_up() -> None:
    pool = Pool(4)
    blocks = pool.fill(b"a", b"b")

    pool.touch(pool.hits([b"a"], 1))
    pool.release(blocks)

    assert [block.users for block in blocks] == [1, 0]
    assert ids(pool.allocate(2, 0.0)) == [3, 2]
    assert pool.free == 0


def test_hits_are_the_longest_run_from_the_start() -> None:
    pool = Pool(6)
    pool.fill(b"a", b"b", b"d")

    assert ids(pool.hits([b"a", b"b", b"c", b"d"], 4)) == [1, 2]
    assert ids(pool.hits([b"a", b"b"], 1)) == [1]
    assert pool.hits([b"c", b"a"], 2) == []


def test_duplicates_stay_until_the_last_one_goes() -> None:
    pool = Pool(4)
    first, second, third = pool.fill(b"a", b"a", b"a")

    pool.release([second])
    assert pool.hits([b"a"], 1) == [first]
    assert pool.allocate(1, 0.0) == [second]
    pool.release([first])
    pool.allocate(1, 0.0)
    assert pool.hits([b"a"], 1) == [third]
    pool.release([third])
    pool.allocate(1, 0.0)
    assert pool.hits([b"a"], 1) == []
    assert pool.evicted == [(b"a", False), (b"a", False), (b"a", True)]


def test_reset_waits_for_the_last_user() -> None:
    pool = Pool(4)
    blocks = pool.fill(b"a", b"b")

    assert not pool.reset(0.0)
    assert pool.is_cached(b"a")
    pool.release(blocks)
    assert pool.reset(0.0)
    assert not pool.is_cached(b"a")
    assert ids(pool.allocate(3, 0.0)) == [3, 2, 1]
    assert pool.evicted == []


def test_hash_names_a_block_and_all_before_it() -> None:
    def hashes(root: bytes, tokens: bytes) -> list[bytes]:
        chained: list[bytes] = []
        extend_hashes(chained, root, tokens, 1, 1)
        extend_hashes(chained, root, tokens, 1, len(tokens) // 4)
        return chained

    plain = hashes(cache_root("m"), b"aaaabbbbcccc")
    assert hashes(cache_root("m"), b"aaaabbbbdddd")[:2] == plain[:2]
    assert plain[2] not in hashes(cache_root("m"), b"aaaaddddcccc")
    assert not set(plain) & set(hashes(cache_root("m", "salt"), b"aaaabbbbcccc"))
    assert not set(plain) & set(hashes(cache_root("n"), b"aaaabbbbcccc"))
