"""A worker's half: copies blocks between its KV cache and the files of its rank."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults

from .layers import BlockLayers
from .plan import Block, Done, Plan
from .store import BlockFiles, Outcome

COPIED_AT_ONCE_BYTES: Final = 64 * 2**20
"""Most host memory that one copy takes."""


class Copier:
    """Carries plans out, one after the other, and keeps what became of them until it is asked.

    Args:
        layers: the KV cache.
        files: the files of this worker's rank.
    """

    def __init__(self, layers: BlockLayers, files: BlockFiles) -> None:
        self._layers = layers
        self._files = files
        self._results = KVConnectorTransferResults()
        self._done = Done()

    def load(self, plan: Plan) -> None:
        """Loads what each request waits for; a request with one block that cannot be loaded has failed."""
        for request_id, blocks in plan.loads.items():
            self._results.finished_recving.add(request_id)
            for part in self._parts(blocks):
                if not self._load(part):
                    self._results.failed_recving.add(request_id)

    def _load(self, blocks: Sequence[Block]) -> bool:
        rows = np.empty((len(blocks), self._layers.row_bytes), np.uint8)
        outcomes = [
            self._files.read(block_hash, row.data) for (block_hash, _), row in zip(blocks, rows, strict=True)
        ]
        for (block_hash, _), outcome in zip(blocks, outcomes, strict=True):
            if outcome is Outcome.ABSENT:
                self._done.absent.add(block_hash)
            elif outcome is Outcome.UNUSABLE:
                self._done.unusable.add(block_hash)
        if any(outcome is not Outcome.READ for outcome in outcomes):
            return False
        self._layers.scatter([ids for _, ids in blocks], rows)
        return True

    def save(self, plan: Plan) -> None:
        """Writes blocks that are not there yet."""
        missing = [block for block in plan.saves if not self._files.holds(block[0])]
        for part in self._parts(missing):
            now = time.monotonic()
            if not self._files.writable(now):
                self._done.absent.update(block_hash for block_hash, _ in part)
                self._files.counts["not written"] += len(part)
                continue
            rows = self._layers.gather([ids for _, ids in part])
            for (block_hash, _), row in zip(part, rows, strict=True):
                if not self._files.write(block_hash, row.data, now):
                    self._done.absent.add(block_hash)

    def _parts(self, blocks: Sequence[Block]) -> Iterator[Sequence[Block]]:
        size = max(1, COPIED_AT_ONCE_BYTES // self._layers.row_bytes)
        return (blocks[i : i + size] for i in range(0, len(blocks), size))

    def take_results(self) -> KVConnectorTransferResults:
        results, self._results = self._results, KVConnectorTransferResults()
        return results

    def take_done(self) -> Done | None:
        done, self._done = self._done, Done()
        done.counts, self._files.counts = self._files.counts, type(done.counts)()
        return done or None
