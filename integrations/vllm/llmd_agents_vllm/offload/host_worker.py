"""Moves KV blocks between device and host where both are the same memory: vLLM's CPU backend."""

import logging
import time
from collections.abc import Sequence

import torch
from vllm.v1.kv_offload.base import (
    BlockIDsLoadStoreSpec,
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

log = logging.getLogger("vllm.llmd_agents")


class HostMemoryWorker(OffloadingWorker):
    """Copies at once, in the caller's thread.

    A chunk of the host tier holds `blocks_per_chunk` blocks one after the other; a transfer may begin and end
    amid a chunk. A transfer that cannot be what was meant moves nothing and is reported as failed, on which
    vLLM 0.32 stops.

    Args:
        kv_caches: the device's cache: tensors of shape (blocks, bytes of a block), int8.
        region: the host tier, which this worker closes when it is shut down.
    """

    def __init__(
        self, kv_caches: CanonicalKVCaches, blocks_per_chunk: int, region: SharedOffloadRegion
    ) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._groups: list[list[CanonicalKVCacheRef]] = kv_caches.group_data_refs
        self._device = [each.tensor.view(torch.int8) for each in kv_caches.tensors]
        # Seen as (chunks, blocks of a chunk, bytes of a block).
        self._host = [
            region.create_next_worker_view(each.page_size_bytes * blocks_per_chunk).unflatten(
                1, (blocks_per_chunk, each.page_size_bytes)
            )
            for each in kv_caches.tensors
        ]
        self._region = region
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._transfer(job_id, src_spec, dst_spec, store=True)

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        return self._transfer(job_id, dst_spec, src_spec, store=False)

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Returns: what was submitted is done."""

    def shutdown(self) -> None:
        self._device.clear()
        self._host.clear()
        self._region.cleanup()

    def _transfer(self, job_id: int, device: GPULoadStoreSpec, host: LoadStoreSpec, *, store: bool) -> bool:
        began = time.perf_counter()
        try:
            moved = self._copy(device, host, store=store)
        except (ValueError, IndexError, RuntimeError):
            log.exception("%s of job %d failed", "store" if store else "load", job_id)
            self._finished.append(TransferResult(job_id, success=False))
        else:
            took = time.perf_counter() - began
            self._finished.append(TransferResult(job_id, True, transfer_size=moved, transfer_time=took))
        return True

    def _copy(self, device: GPULoadStoreSpec, host: LoadStoreSpec, *, store: bool) -> int:
        """Returns how many bytes were moved."""
        if not isinstance(host, BlockIDsLoadStoreSpec):
            raise ValueError(f"{type(host).__name__} names no chunks")
        moved = 0
        for refs, blocks, chunks, places in self._pairs(device, torch.as_tensor(host.block_ids)):
            for ref in refs:
                of_device, of_host = self._device[ref.tensor_idx], self._host[ref.tensor_idx]
                size = ref.page_size_bytes
                if store:
                    of_host[chunks, places, :size] = of_device[blocks, :size]
                else:
                    of_device[blocks, :size] = of_host[chunks, places, :size]
                moved += len(blocks) * size
        return moved

    def _pairs(
        self, device: GPULoadStoreSpec, chunk_ids: torch.Tensor
    ) -> list[tuple[list[CanonicalKVCacheRef], torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Returns for each group with blocks: its layers, the blocks, and their chunks and places in them.

        Raises:
            ValueError: if blocks and chunks do not match, or are out of range.
        """
        per_chunk = self._blocks_per_chunk
        block_ids = torch.as_tensor(device.block_ids).long()
        sizes: Sequence[int] = device.group_sizes
        if not len(sizes) == len(device.block_indices) == len(self._groups):
            raise ValueError(f"{len(sizes)} groups of blocks for {len(self._groups)} groups of the cache")
        pairs = []
        at_block = at_chunk = 0
        for refs, size, first in zip(self._groups, sizes, device.block_indices, strict=True):
            if not size:
                continue
            places = first % per_chunk + torch.arange(size)
            used = int(places[-1]) // per_chunk + 1
            chunks = chunk_ids[at_chunk : at_chunk + used].long()
            if len(chunks) < used:
                raise ValueError(f"{len(chunk_ids)} chunks are too few for {len(block_ids)} blocks")
            blocks = block_ids[at_block : at_block + size]
            for ref in refs:
                _in_range(blocks, len(self._device[ref.tensor_idx]), "block")
                _in_range(chunks, len(self._host[ref.tensor_idx]), "chunk")
            pairs.append((refs, blocks, chunks[places // per_chunk], places % per_chunk))
            at_block, at_chunk = at_block + size, at_chunk + used
        if at_block != len(block_ids) or at_chunk != len(chunk_ids):
            raise ValueError(f"{len(chunk_ids)} chunks do not match {len(block_ids)} blocks")
        return pairs


def _in_range(ids: torch.Tensor, count: int, what: str) -> None:
    if int(ids.min()) < 0 or int(ids.max()) >= count:
        raise ValueError(f"there are {count} {what}s; asked for {ids.tolist()}")
