"""What the spec makes of its options."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.factory import OffloadingSpecFactory

from harness.shared_memory import remove_regions
from llmd_agents_vllm.offload.policy import AgentOffloadPolicy, policy_of_process
from llmd_agents_vllm.offload.spec import AgentOffloadSpec

PAGE = 4096


@pytest.fixture
def engine_id() -> Iterator[str]:
    engine_id = f"llmd-agents-{uuid4().hex}"
    yield engine_id
    remove_regions(engine_id)


def spec(engine_id: str, *, canonical_layout: bool = False, **extra_config: Any) -> AgentOffloadSpec:
    config = OffloadingConfig(
        groups=(OffloadingGroupConfig(tokens_per_block=16, layer_names=("layer",), group_id=0),),
        worker_kv_bytes_per_block=PAGE,
        enable_kv_cache_events=False,
        extra_config={
            "spec_name": "AgentOffloadSpec",
            "spec_module_path": "llmd_agents_vllm.offload.spec",
            "cpu_bytes_to_use": 10 * PAGE,
            **extra_config,
        },
        engine_id=engine_id,
        model=OffloadingModelConfig("model", "float32"),
        cache=OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
        parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True),
        canonical_layout=canonical_layout,
    )
    made = OffloadingSpecFactory.create_spec(config)
    assert isinstance(made, AgentOffloadSpec)
    return made


def test_its_policy_is_ours_with_the_options_that_it_was_given(engine_id: str) -> None:
    manager = spec(engine_id, retention_budget=0.5, retention_budget_per_tenant=0.2).get_manager()
    policy = policy_of_process()
    assert policy is not None
    assert policy.cache_capacity == 10
    assert policy._ledger is not None
    assert (policy._ledger._budget, policy._ledger._tenant_budget) == (5.0, 2.0)
    manager.shutdown()


def test_another_policy_may_be_named(engine_id: str) -> None:
    manager = spec(engine_id, eviction_policy="lru").get_manager()
    assert not isinstance(manager.primary_tier._policy, AgentOffloadPolicy)
    manager.shutdown()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retention_budget": 2}, "retention_budget: .* less than or equal to 1"),
        ({"retention_budget_per_tenant": "0.5"}, "retention_budget_per_tenant: .* a valid number"),
        ({"cpu_bytes_to_use": PAGE - 1}, f"too little for one chunk, which takes {PAGE} bytes"),
        ({"canonical_layout": True}, "canonical_layout in kv_connector_extra_config needs a GPU"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_start(
    engine_id: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        spec(engine_id, **options)
