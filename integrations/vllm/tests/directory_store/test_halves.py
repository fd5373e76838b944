"""The connector's two halves, made as vLLM makes them but without an engine."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.config import KVTransferConfig, VllmConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec
from vllm.v1.outputs import KVConnectorOutput

from llmd_agents_vllm.directory_store import SharedDirectoryConnector, store_of_process
from llmd_agents_vllm.directory_store.plan import Done, Plan
from llmd_agents_vllm.directory_store.store import BlockFiles

from .test_planner import request, step

FULL = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32)
WINDOW = SlidingWindowSpec(
    block_size=32, num_kv_heads=2, head_size=32, dtype=torch.float32, sliding_window=64
)
CACHE = KVCacheConfig(10, [], [KVCacheGroupSpec(["a"], FULL)])
MIXED = KVCacheConfig(10, [], [KVCacheGroupSpec(["a"], FULL), KVCacheGroupSpec(["b"], WINDOW)])
KEY = b"h" * 32


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path) -> VllmConfig:
    config = EngineArgs(
        model=str(tiny_model), dtype="float32", block_size=32, max_model_len=1024
    ).create_engine_config()
    config.kv_transfer_config = transfer(tmp_path)
    return config


def transfer(path: Path, **options: Any) -> KVTransferConfig:
    return KVTransferConfig(
        **{
            "kv_connector": "SharedDirectoryConnector",
            "kv_connector_module_path": "llmd_agents_vllm.directory_store",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"path": str(path)},
            **options,
        }
    )


def half(engine: VllmConfig, role: KVConnectorRole, cache: KVCacheConfig = CACHE) -> SharedDirectoryConnector:
    connector = KVConnectorFactory.create_connector(engine, role, cache)
    assert isinstance(connector, SharedDirectoryConnector)
    return connector


def work(worker: SharedDirectoryConnector, plan: Plan) -> tuple[set[str], set[str], Done | None]:
    """One step of a worker: the requests whose loads ended, those that failed, and what it reports."""
    worker.bind_connector_metadata(plan)
    worker.start_load_kv(None)
    worker.wait_for_save()
    results = worker.get_transfer_results(set())
    done = worker.build_connector_worker_meta()
    worker.clear_connector_metadata()
    return results.finished_recving, results.failed_recving, done


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.rand(10, 2, 32, 64)}


def test_a_block_goes_from_one_worker_to_another(engine: VllmConfig) -> None:
    planner = half(engine, KVConnectorRole.SCHEDULER)
    name = planner.build_connector_meta(SchedulerOutput.make_empty()).namespace
    source, target = tensors(), tensors()
    writer, reader = half(engine, KVConnectorRole.WORKER), half(engine, KVConnectorRole.WORKER)
    writer.register_kv_caches(source)
    reader.register_kv_caches(target)

    assert work(writer, Plan(name, saves=[(KEY, (3,))])) == (set(), set(), Done(counts={"written": 1}))  # type: ignore[arg-type]
    assert planner.holds(KEY)
    finished, failed, _ = work(reader, Plan(name, loads={"r": [(KEY, (7,))]}))
    assert (finished, failed) == ({"r"}, set())
    assert torch.equal(target["a"][7], source["a"][3])
    finished, failed, done = work(reader, Plan(name, loads={"r": [(KEY, (7,)), (b"not there", (8,))]}))
    assert (finished, failed) == ({"r"}, {"r"})
    assert done is not None
    assert done.absent == {b"not there"}
    assert work(reader, Plan(name)) == (set(), set(), None)


def test_another_policy_than_recompute_is_refused(engine: VllmConfig, tmp_path: Path) -> None:
    engine.kv_transfer_config = transfer(tmp_path, kv_load_failure_policy="fail")
    for role in KVConnectorRole:
        with pytest.raises(ValueError, match="recompute"):
            half(engine, role)


def test_it_goes_with_the_hybrid_cache_manager_alone_and_within_a_multi_connector(tmp_path: Path) -> None:
    alone = transfer(tmp_path)
    child = {name: getattr(alone, name) for name in ("kv_connector", "kv_connector_module_path", "kv_role")}
    within = KVTransferConfig(
        kv_connector="MultiConnector", kv_role="kv_both", kv_connector_extra_config={"connectors": [child]}
    )
    assert KVConnectorFactory.supports_hma_config(alone)
    assert KVConnectorFactory.supports_hma_config(within)


def test_an_engine_that_cannot_be_served_runs_as_without_a_connector(engine: VllmConfig) -> None:
    planner, worker = (half(engine, role, MIXED) for role in KVConnectorRole)
    assert planner.declined == "SlidingWindowSpec is not full attention"
    asked = request(tokens=100)
    planner.on_new_request(asked)
    assert planner.get_num_new_matched_tokens(asked, 0) == (0, False)
    plan = planner.build_connector_meta(SchedulerOutput.make_empty())
    worker.register_kv_caches({"a": torch.zeros(10, 2, 32, 64), "b": torch.zeros(10, 2, 32, 64)})
    assert work(worker, plan) == (set(), set(), None)
    assert planner.request_finished_all_groups(asked, ([], [])) == (False, None)
    assert planner.reset_cache() is None
    assert not planner.holds(KEY)


def test_a_worker_that_cannot_tell_its_blocks_apart_fails_what_was_planned_and_ends_planning(
    engine: VllmConfig,
) -> None:
    planner, worker = half(engine, KVConnectorRole.SCHEDULER), half(engine, KVConnectorRole.WORKER)
    worker.register_kv_caches({"a": torch.zeros(2, 10, 32, 2, 32)})
    name = planner.build_connector_meta(SchedulerOutput.make_empty()).namespace
    finished, failed, done = work(worker, Plan(name, loads={"r": [(KEY, (1,))]}, saves=[(KEY, (1,))]))
    assert (finished, failed) == ({"r"}, {"r"})
    planner.update_connector_output(KVConnectorOutput(kv_connector_worker_meta=done))
    assert planner.declined is not None
    assert "layer a is (2, 10, 32, 2, 32)" in planner.declined
    assert planner.get_num_new_matched_tokens(request(tokens=100), 0) == (0, False)


@pytest.mark.parametrize(("role", "loaded", "saves"), [("kv_producer", 0, 1), ("kv_consumer", 64, 0)])
def test_producers_do_not_load_and_consumers_do_not_write(
    engine: VllmConfig, tmp_path: Path, role: str, loaded: int, saves: int
) -> None:
    engine.kv_transfer_config = transfer(tmp_path, kv_role=role)
    planner = half(engine, KVConnectorRole.SCHEDULER)
    name = planner.build_connector_meta(SchedulerOutput.make_empty()).namespace
    asked = request(tokens=100, block_tokens=32)
    for block_hash in asked.block_hashes[:2]:
        BlockFiles(tmp_path, name, layout=b"l" * 16).write(block_hash, memoryview(b"payload"), 0.0)
    planner.on_new_request(asked)
    assert planner.get_num_new_matched_tokens(asked, 0) == (loaded, loaded > 0)
    asked.num_computed_tokens = 64
    written = [block_hash for block_hash, _ in planner.build_connector_meta(step({asked: 32})).saves]
    assert written.count(asked.block_hashes[2]) == saves


def test_the_process_s_store_is_the_newest_planner_while_it_lives(engine: VllmConfig) -> None:
    first = half(engine, KVConnectorRole.SCHEDULER)
    worker = half(engine, KVConnectorRole.WORKER)
    assert store_of_process() is first
    second = half(engine, KVConnectorRole.SCHEDULER)
    assert store_of_process() is second
    del second
    gc.collect()
    assert store_of_process() is None
    assert worker.role is KVConnectorRole.WORKER
