"""vLLM's own cache manager with our books beside it, and no model: requests compute as soon as they may."""

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from vllm import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    SlidingWindowSpec,
)
from vllm.v1.request import Request

from llmd_agents.hints import Hints, residency_scope
from llmd_agents_vllm.device.books import Books, LowerTier
from llmd_agents_vllm.device.pool import DevicePool
from llmd_agents_vllm.device.use import Use

BLOCK = 4
init_none_hash(sha256)
_HASHER = get_request_block_hasher(BLOCK, sha256)


def digest(name: str) -> bytes:
    return name.encode().ljust(16, b".")


class RealCache:
    """One engine's cache.

    Args:
        num_blocks: of four tokens each, besides the null block.
        windows: of the attention of each group of layers, in tokens; None for all of it.
    """

    def __init__(
        self,
        num_blocks: int,
        *,
        lower: Sequence[LowerTier] = (),
        budget: float = 1.0,
        scope_budget: float = 1.0,
        at_once: int = 64,
        windows: Sequence[int | None] = (None,),
    ) -> None:
        shape: dict[str, Any] = {"num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
        specs: list[KVCacheSpec] = [
            FullAttentionSpec(block_size=BLOCK, **shape)
            if window is None
            else SlidingWindowSpec(block_size=BLOCK, **shape, sliding_window=window)
            for window in windows
        ]
        groups = [KVCacheGroupSpec([f"layer {at}"], spec) for at, spec in enumerate(specs)]
        config = KVCacheConfig(num_blocks=num_blocks + 1, kv_cache_tensors=[], kv_cache_groups=groups)
        self.manager = KVCacheManager(
            config, max_model_len=4096, scheduler_block_size=BLOCK, hash_block_size=BLOCK
        )
        self.pool = self.manager.block_pool
        main = windows.index(None) if None in windows else 0
        self.device = DevicePool(self.pool, range(len(groups)), main)
        self.books = Books(
            self.device, BLOCK, lower, budget=budget, scope_budget=scope_budget, at_once=at_once
        )
        self.now = 0.0
        self.tick = 1.0
        self._ids = count()
        self._groups = len(groups)
        self._running: dict[str, tuple[Request, int]] = {}

    def start(
        self,
        prompt: Sequence[int],
        ends: Sequence[tuple[str, int]] = (),
        *,
        salt: str | None = None,
        hints: Hints | None = None,
    ) -> str | None:
        """Schedules a request with all of its prompt; returns its id, or None if it does not fit now.

        Args:
            ends: links of its chain, with their canonical bytes, which are four a token here.
        """
        request_id = f"r{next(self._ids)}"
        request = Request(
            request_id,
            list(prompt),
            SamplingParams(max_tokens=1),
            None,
            cache_salt=salt,
            block_hasher=_HASHER,
        )
        self.books.arrived(
            request_id,
            Use(
                hashes=request.block_hashes,
                prompt=list(prompt),
                links=tuple((digest(name), 4 * end) for name, end in ends),
                scope=residency_scope(salt),
                hints=hints,
                salt=salt,
            ),
        )
        computed, cached, *_ = self.manager.get_computed_blocks(request)
        self.books.prepare(self._groups * (len(request.block_hashes) + 1), self.now)
        fits = self.manager.allocate_slots(
            request, len(prompt) - cached, num_new_computed_tokens=cached, new_computed_blocks=computed
        )
        self.now += self.tick
        if fits is None:
            self.books.finished(request_id, self.now)
            self.books.settle(self.now)
            return None
        self.books.take_evicted()
        self.books.advanced(request_id, len(prompt), self.now)
        self.books.settle(self.now)
        self._running[request_id] = request, cached
        return request_id

    def end(self, request_id: str) -> int:
        """Ends a request; returns how many of its prompt's tokens were cached."""
        cached = self.free(request_id)
        self.books.settle(self.now)
        return cached

    def free(self, request_id: str) -> int:
        """Ends a request as vLLM does: the books hear of it before its blocks are free, and not after."""
        request, cached = self._running.pop(request_id)
        self.books.finished(request_id, self.now)
        self.manager.free(request)
        return cached

    def take(self, blocks: int) -> None:
        """Takes blocks and gives them back, as running requests do between two looks of the books."""
        self.pool.free_blocks(self.pool.get_new_blocks(blocks))

    def run(self, prompt: Sequence[int], ends: Sequence[tuple[str, int]] = (), **said: Any) -> int:
        """Runs a request to its end; returns how many of its prompt's tokens were cached."""
        request_id = self.start(prompt, ends, **said)
        assert request_id is not None
        return self.end(request_id)

    def resident(self) -> dict[bytes, int]:
        """Returns the digests on the device, with their tokens."""
        return {
            change.digest: change.tokens
            for change in self.books.residency.snapshot()
            if change.tier == "device"
        }
