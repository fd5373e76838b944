"""What is read of an engine's metrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from llmd_agents.engine import EngineCore
from llmd_agents.engine.metrics import EngineMetrics
from llmd_agents.router.load_reading import COUNT_MAX, LoadReading, read_load
from tests.engine.stories import profile, request

# As vLLM 0.32 writes them, for two data-parallel replicas.
VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 4.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="1",model_name="tiny"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 90.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.75
"""


def test_replicas_are_added_up() -> None:
    assert read_load(VLLM) == LoadReading(running=7, waiting=1, cache_usage=0.5)


def test_an_embedded_engine_tells_it_too() -> None:
    core = EngineCore(profile(max_num_seqs=1))
    for name in "abc":
        core.add(request(name, "abcdefgh", "a long answer"), 0.0)
    core.step(0.0)
    metrics = EngineMetrics(core, "tiny", lambda: 0.0)
    assert read_load(metrics.text()) == LoadReading(1, 2, core.cache_usage)
    assert core.cache_usage > 0


@pytest.mark.parametrize(
    "name", ["plain", 'quotes " and } 77', "a line\nend", "vllm:num_requests_waiting 5", "back\\slash", "ÿ✓"]
)
def test_any_model_name(name: str) -> None:
    registry = CollectorRegistry()
    for metric, value in (("num_requests_running", 2), ("num_requests_waiting", 1)):
        Gauge(f"vllm:{metric}", "…", ["model_name"], registry=registry).labels(name).set(value)
    assert read_load(generate_latest(registry)) == LoadReading(2, 1, None)


@pytest.mark.parametrize(
    ("running", "read"),
    [
        (b"3", 3),
        (b"3 1795279627000", 3),  # with a timestamp
        (b"1e300", COUNT_MAX),
        (b"NaN", None),
        (b"+Inf", None),
        (b"-1", None),
        (b"many", None),
        (b"", None),
    ],
)
def test_numbers_that_are_none_count_as_missing(running: bytes, read: int | None) -> None:
    for end in (b"\n", b"\r\n"):
        text = b"vllm:num_requests_running " + running + end + b"vllm:num_requests_waiting 0" + end
        found = read_load(text)
        assert (found.running if found is not None else None) == read


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>vllm:num_requests_running 1</html>",
        b"sglang:num_running_reqs 4\n",
        b"vllm:num_requests_running 4\n",
        b"vllm:num_requests_running{ 4\nvllm:num_requests_waiting{} \n",
        b"\xff\xfe" * 100,
    ],
)
def test_what_tells_nothing(text: bytes) -> None:
    assert read_load(text) is None


NAMES = st.sampled_from([b"num_requests_running", b"num_requests_waiting", b"kv_cache_usage_perc"])
SAMPLES = st.tuples(NAMES, st.binary(max_size=20)).map(lambda parts: b"vllm:" + b"".join(parts))


@given(st.lists(SAMPLES | st.binary(max_size=30), max_size=12))
def test_any_text_at_all(lines: list[bytes]) -> None:
    found = read_load(b"\n".join(lines))
    if found is not None:
        assert 0 <= found.running <= COUNT_MAX
        assert 0 <= found.waiting <= COUNT_MAX
        assert found.cache_usage is None or (0 <= found.cache_usage <= 1 and math.isfinite(found.cache_usage))


@pytest.mark.parametrize("text", [b"vllm:num_requests_running{" + b"} " * 200_000, b"} 1\n" * 200_000])
def test_hostile_text_takes_no_longer_than_its_length(text: bytes) -> None:
    assert read_load(text) is None
