"""A vLLM that lacks what a part uses: the part stays off, and the engine runs without it."""

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.block_pool import BlockPool

GONE = "resolve_block_hashes"


@pytest.fixture
def _lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes a function from vLLM, and forgets which modules of ours have been imported."""
    monkeypatch.delattr(kv_cache_utils, GONE)
    for name in [name for name in sys.modules if name.startswith("llmd_agents_vllm")]:
        monkeypatch.delitem(sys.modules, name)


def bound_connector(data_parallel_size: int = 1) -> Any:
    """A connector that has been handed a real block pool, as the scheduler does."""
    from llmd_agents_vllm.connector import AgentConnector

    connector = AgentConnector.__new__(AgentConnector)
    connector.engine_side = None
    connector._config = SimpleNamespace(
        parallel_config=SimpleNamespace(data_parallel_size=data_parallel_size)
    )
    connector.bind_gpu_block_pool(BlockPool(8, enable_caching=True, hash_block_size=4))
    return connector


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.usefixtures("_lacking")
def test_the_connector(caplog: pytest.LogCaptureFixture) -> None:
    assert bound_connector().engine_side is None
    (line,) = lines(caplog)
    assert f"vllm.v1.core.kv_cache_utils has no {GONE}" in line
    assert line.endswith("It stays off; the engine runs without it")


@pytest.mark.usefixtures("_lacking")
def test_the_other_parts_can_be_imported() -> None:
    import llmd_agents_vllm.middleware
    import llmd_agents_vllm.offload.spec
    import llmd_agents_vllm.plugins
    import llmd_agents_vllm.scheduler

    assert llmd_agents_vllm.plugins.Endpoint.name


def test_under_data_parallelism_the_connector_stays_off(caplog: pytest.LogCaptureFixture) -> None:
    assert bound_connector(data_parallel_size=2).engine_side is None
    assert lines(caplog) == [
        "AgentConnector does not support data parallelism. It stays off; the engine runs on"
    ]


def test_a_fault_while_it_begins_leaves_it_off(caplog: pytest.LogCaptureFixture) -> None:
    assert bound_connector().engine_side is None  # it has been given no options
    assert lines(caplog) == ["AgentConnector has failed; the engine goes on without it, in vLLM's own order"]
