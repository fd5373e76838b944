"""`AgentOffloadPolicy`: vLLM's cache policy for the host tier of its offloading.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
      "kv_connector_extra_config": {
        "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 100000000000,
        "eviction_policy": "AgentOffloadPolicy",
        "cache_policy_module_path": "llmd_agents_vllm.offload.policy"}}'

It only orders: whatever vLLM asks for is given up, and without hints in vLLM's own least-recently-used order.
"""

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, TypeVar

from vllm.v1.kv_offload.base import (
    OffloadKey,
    ReqContext,
    get_offload_block_hash,
    get_offload_group_idx,
    make_offload_key,
)
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus
from vllm.v1.kv_offload.cpu.policies.lru import LRUCachePolicy

from llmd_agents.hints import Estimate

from ..carried import AHEAD
from ..startup_check import Part, usable
from . import settings
from .declared import Declaration, declared
from .ledger import Ledger

T = TypeVar("T")

Watcher = Callable[[bytes, bool], None]
"""Called with a block hash, and whether it has come to the host tier (else it has left it)."""

GROUPS_MAX: Final = 1024
"""More groups than a model has: an unlikely group index must not make directives slow."""

log = logging.getLogger("vllm.llmd_agents")

_newest: "weakref.ref[AgentOffloadPolicy] | None" = None


def policy_of_process() -> "AgentOffloadPolicy | None":
    """Returns the policy that was made last in this process, if it is still in use."""
    return _newest() if _newest is not None else None


@dataclass(slots=True)
class _Request:
    """What is kept with a request's context: its hints, and the key before the next, in each group."""

    said: Declaration | None
    stored: dict[int, OffloadKey] = field(default_factory=dict)


class AgentOffloadPolicy(CachePolicy):
    """Gives up what is dead, then what is needed last.

    Recency and what may be evicted at all are kept by vLLM's `LRUCachePolicy`, which also decides wherever
    hints say nothing. A fault in our own books ends their use, not the engine.

    Args:
        cache_capacity: chunks that the tier holds.
    """

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        global _newest
        shares = settings.current()
        self._lru = LRUCachePolicy(cache_capacity)
        self._ledger: Ledger | None = None
        if usable(Part.OFFLOAD):
            self._ledger = Ledger(
                cache_capacity,
                shares.retention_budget * cache_capacity,
                shares.retention_budget_per_tenant * cache_capacity,
            )
        self._coming: dict[OffloadKey, OffloadKey | None] = {}
        self._ready: dict[OffloadKey, None] = {}
        self._groups: set[int] = set()
        self._watchers: list[Watcher] = []
        _newest = weakref.ref(self)

    # --- what vLLM calls

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        return self._lru.get(key)

    def on_store_miss(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """Comes before the keys are inserted, and tells whose they are."""
        keys = list(keys)
        self._lru.on_store_miss(keys, req_context)
        self._booked(lambda ledger: self._expect(keys, req_context))

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        self._lru.insert(key, chunk)
        before = self._coming.pop(key, None)
        self._booked(lambda ledger: ledger.came(key, before, monotonic()))
        if chunk.ref_cnt == 0:
            self._is_ready(key)

    def remove(self, key: OffloadKey) -> None:
        self._lru.remove(key)
        self._left(key)

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        keys = list(keys)
        self._lru.touch(keys, req_context)
        self._booked(lambda ledger: ledger.touched(keys, monotonic()))

    def on_request_finished(
        self,
        key_groups: Sequence[Sequence[OffloadKey]],
        insertion_only_keys: set[OffloadKey],
        reused_keys: set[OffloadKey],
        req_context: ReqContext,
    ) -> None:
        self._lru.on_request_finished(key_groups, insertion_only_keys, reused_keys, req_context)
        if req_context.req_id.startswith(AHEAD):
            return
        self._booked(
            lambda ledger: ledger.finished(
                [_with_ends(keys, req_context) for keys in key_groups],
                self._request(req_context).said,
                monotonic(),
            )
        )

    def evict(self, n: int, protected: set[OffloadKey]) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        chosen = self._chosen(n, protected)
        rest = self._lru.evict(n - len(chosen), protected.union(chosen) if chosen else protected)
        if rest is None:
            self._booked(lambda ledger: ledger.failed())
            return None
        evicted: list[tuple[OffloadKey, ChunkStatus]] = []
        for key in chosen:
            chunk = self._lru.get(key)
            assert chunk is not None
            self._lru.remove(key)
            evicted.append((key, chunk))
        evicted += rest
        for key, _ in evicted:
            self._left(key)
        return evicted

    def clear(self) -> None:
        self._lru.clear()
        self._coming.clear()
        self._booked(lambda ledger: ledger.cleared())
        for key in list(self._ready):
            self._is_ready_no_more(key)

    def mark_evictable(self, key: OffloadKey) -> None:
        self._lru.mark_evictable(key)
        self._is_ready(key)

    def mark_non_evictable(self, key: OffloadKey) -> None:
        self._lru.mark_non_evictable(key)

    # --- what a connector in the same process calls

    def estimated(self, block_hashes: Sequence[bytes], estimate: Estimate | None) -> None:
        """Sets when a context will be needed next; it holds until its next use.

        Args:
            block_hashes: of the context's blocks, from its start on.
            estimate: on the clock of `time.monotonic`; None leaves the context to least-recently-used order.
        """
        paths, now = self._keys(block_hashes), monotonic()
        self._booked(lambda ledger: ledger.estimated(paths, estimate, now))

    def released(self, block_hashes: Sequence[bytes]) -> None:
        """Takes these blocks for dead, apart from what living context extends."""
        paths = self._keys(block_hashes)
        self._booked(lambda ledger: ledger.released(paths))

    def holds(self, block_hash: bytes) -> bool:
        """Returns whether a block could be loaded; one whose groups come and go apart, while one is there."""
        return any(make_offload_key(block_hash, group) in self._ready for group in self._groups)

    def watch(self, callback: Watcher) -> None:
        """Tells of block hashes that come to the host tier or leave it; first of all that are there."""
        self._watchers.append(callback)
        for block_hash in dict.fromkeys(get_offload_block_hash(key) for key in self._ready):
            _tell(callback, block_hash, True)

    # --- inside

    def _booked(self, action: Callable[[Ledger], T]) -> T | None:
        """Keeps the books; gives them up for good if they are at fault."""
        if self._ledger is None:
            return None
        try:
            return action(self._ledger)
        except Exception:
            log.exception("the books of the host tier are at fault: least-recently-used order from here on")
            self._ledger = None
            self._coming.clear()
            return None

    def _chosen(self, n: int, protected: set[OffloadKey]) -> list[OffloadKey]:
        ledger = self._ledger
        if n <= 0 or ledger is None or ledger.silent:
            return []

        def takable(key: bytes) -> bool:
            chunk = self._lru.get(key)
            return chunk is not None and chunk.ref_cnt == 0 and key not in protected

        chosen = self._booked(lambda ledger: ledger.victims(n, takable, monotonic()))
        return [OffloadKey(key) for key in chosen or ()]

    def _request(self, req_context: ReqContext) -> _Request:
        """Reads a request's hints once."""
        request: _Request | None = req_context.get_state(_Request)
        if request is None:
            request = _Request(declared(req_context.kv_transfer_params))
            req_context.set_state(request)
        return request

    def _expect(self, keys: Sequence[OffloadKey], req_context: ReqContext) -> None:
        stored = self._request(req_context).stored
        self._coming.clear()  # what was not inserted then will not be
        for key in keys:
            group = get_offload_group_idx(key)
            self._coming[key] = stored.get(group)
            stored[group] = key
            if len(self._groups) < GROUPS_MAX:
                self._groups.add(group)

    def _keys(self, block_hashes: Sequence[bytes]) -> list[list[bytes]]:
        return [
            [make_offload_key(block_hash, group) for block_hash in block_hashes]
            for group in sorted(self._groups)
        ]

    def _left(self, key: OffloadKey) -> None:
        self._booked(lambda ledger: ledger.went(key))
        if key in self._ready:
            self._is_ready_no_more(key)

    def _is_ready(self, key: OffloadKey) -> None:
        if key not in self._ready:
            self._ready[key] = None
            self._changed(key, True)

    def _is_ready_no_more(self, key: OffloadKey) -> None:
        del self._ready[key]
        self._changed(key, False)

    def _changed(self, key: OffloadKey, present: bool) -> None:
        """Tells of a block when the first of its groups comes, and when the last one leaves."""
        if not self._watchers:
            return
        block_hash = get_offload_block_hash(key)
        own = get_offload_group_idx(key)
        if any(make_offload_key(block_hash, each) in self._ready for each in self._groups if each != own):
            return
        for watcher in self._watchers:
            _tell(watcher, block_hash, present)


def _with_ends(keys: Sequence[OffloadKey], req_context: ReqContext) -> list[tuple[bytes, int]]:
    """Returns keys with the tokens up to their ends; by count, should a position be missing."""
    ends = [req_context.get_offload_key_position(key) for key in keys]
    if any(end is None for end in ends):
        return [(key, index + 1) for index, key in enumerate(keys)]
    return [(key, end or 0) for key, end in zip(keys, ends, strict=True)]


def _tell(watcher: Watcher, block_hash: bytes, present: bool) -> None:
    try:
        watcher(block_hash, present)
    except Exception:
        log.exception("a watcher of the host tier failed")
