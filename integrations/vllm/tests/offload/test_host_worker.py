"""Blocks come back as they were, whatever the chunks; what makes no sense moves nothing."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
    LoadStoreSpec,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

from harness.shared_memory import remove_regions
from llmd_agents_vllm.offload.host_worker import HostMemoryWorker

BLOCKS = 12
PAGES = (64, 96)
PER_CHUNK = 3
CHUNKS = 4


class Rig:
    """Two tensors; group 0 uses both, group 1 the first 40 bytes of each block of the first."""

    def __init__(self, engine_id: str) -> None:
        generator = torch.Generator().manual_seed(7)
        # Strided, as a layout has it that packs several layers into a block.
        self.device = [
            torch.randint(-128, 128, (BLOCKS, page + 32), dtype=torch.int8, generator=generator)[:, :page]
            for page in PAGES
        ]
        page = sum(PAGES) * PER_CHUNK
        region = SharedOffloadRegion(engine_id, CHUNKS, 0, SharedOffloadRegion.BLOCK_SIZE_ALIGNMENT, page)
        caches = CanonicalKVCaches(
            [CanonicalKVCacheTensor(each, page) for each, page in zip(self.device, PAGES, strict=True)],
            [
                [CanonicalKVCacheRef(0, PAGES[0]), CanonicalKVCacheRef(1, PAGES[1])],
                [CanonicalKVCacheRef(0, 40)],
            ],
        )
        self.worker = HostMemoryWorker(caches, PER_CHUNK, region)

    def store(self, device: GPULoadStoreSpec, host: LoadStoreSpec) -> TransferResult:
        assert self.worker.submit_store(1, device, host)
        return self._finished()

    def load(self, host: LoadStoreSpec, device: GPULoadStoreSpec) -> TransferResult:
        assert self.worker.submit_load(1, host, device)
        return self._finished()

    def _finished(self) -> TransferResult:
        self.worker.wait({1})
        (result,) = self.worker.get_finished()
        assert self.worker.get_finished() == []
        return result


@pytest.fixture
def rig() -> Iterator[Rig]:
    engine_id = f"llmd-agents-{uuid4().hex}"
    rig = Rig(engine_id)
    yield rig
    rig.worker.shutdown()
    remove_regions(engine_id)


def blocks(ids: list[int], sizes: list[int], first: list[int]) -> GPULoadStoreSpec:
    return GPULoadStoreSpec(ids, group_sizes=sizes, block_indices=first)


def test_blocks_come_back_to_other_places(rig: Rig) -> None:
    before = [each.clone() for each in rig.device]
    # Blocks 2 to 6 of a prompt: the end of its chunk 0, chunk 1, and the beginning of chunk 2.
    moved = rig.store(blocks([3, 9, 1, 0, 5], [5, 0], [2, 0]), CPULoadStoreSpec([2, 0, 3]))
    assert (moved.success, moved.transfer_size) == (True, 5 * sum(PAGES))
    for each in rig.device:
        each.zero_()
    # Of those, blocks 4 to 6.
    assert rig.load(CPULoadStoreSpec([0, 3]), blocks([7, 8, 11], [3, 0], [4, 0])).success
    for tensor, was in zip(rig.device, before, strict=True):
        assert torch.equal(tensor[[7, 8, 11]], was[[1, 0, 5]])
        assert not tensor[[index for index in range(BLOCKS) if index not in (7, 8, 11)]].any()


def test_each_group_moves_its_own_bytes(rig: Rig) -> None:
    before = [each.clone() for each in rig.device]
    moved = rig.store(blocks([0, 1, 2, 3], [3, 1], [0, 4]), CPULoadStoreSpec([1, 2]))
    assert moved.transfer_size == 3 * sum(PAGES) + 40
    for each in rig.device:
        each.zero_()
    assert rig.load(CPULoadStoreSpec([2]), blocks([10], [0, 1], [0, 4])).success
    assert torch.equal(rig.device[0][10, :40], before[0][3, :40])
    assert not rig.device[0][10, 40:].any()
    assert not rig.device[1].any()


@pytest.mark.parametrize(
    ("device", "host"),
    [
        (blocks([0, 1], [2, 0], [0, 0]), CPULoadStoreSpec([])),
        (blocks([0, 1], [2, 0], [2, 0]), CPULoadStoreSpec([0])),
        (blocks([0, 1], [2, 0], [0, 0]), CPULoadStoreSpec([0, 1])),
        (blocks([0], [1], [0]), CPULoadStoreSpec([0])),
        (blocks([BLOCKS], [1, 0], [0, 0]), CPULoadStoreSpec([0])),
        (blocks([-1], [1, 0], [0, 0]), CPULoadStoreSpec([0])),
        (blocks([0], [1, 0], [0, 0]), CPULoadStoreSpec([CHUNKS])),
        (blocks([0], [1, 0], [0, 0]), LoadStoreSpec()),
    ],
)
def test_what_cannot_be_meant_fails_and_moves_nothing(
    rig: Rig, device: GPULoadStoreSpec, host: LoadStoreSpec
) -> None:
    before = [each.clone() for each in rig.device]
    assert rig.store(device, host) == TransferResult(1, success=False)
    assert rig.load(host, device) == TransferResult(1, success=False)
    assert all(torch.equal(each, was) for each, was in zip(rig.device, before, strict=True))
    # And the next one is none the worse.
    assert rig.store(blocks([0], [1, 0], [0, 0]), CPULoadStoreSpec([0])).success


def test_nothing_to_move_is_done_at_once(rig: Rig) -> None:
    assert rig.store(blocks([], [0, 0], [0, 0]), CPULoadStoreSpec([])).transfer_size == 0
