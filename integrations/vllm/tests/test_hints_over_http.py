"""Real engines behind our middleware: a call's hints reach the engine, and nothing else changes."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.engines import Engine, EngineOptions, engines
from llmd_agents.hints import HINTS_HEADER, Hints, Program, Step, chain, encode_hints

FLAGS = (
    "--middleware",
    "llmd_agents_vllm.middleware.HintsMiddleware",
    "--scheduler-cls",
    "llmd_agents_vllm.scheduler.AgentScheduler",
    "--additional-config",
    '{"llmd_agents": {"aging_s": 5}}',
    "--api-key",
    "secret",
)
ECHO = {
    "kv_connector": "EchoConnector",
    "kv_role": "kv_both",
    "kv_connector_module_path": "tests.echo_connector",
}
KEY = {"Authorization": "Bearer secret"}
HINTED = {
    **KEY,
    HINTS_HEADER: encode_hints(Hints(program=Program(id="essay", priority=70), step=Step(id="s1"))),
}
MESSAGES = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "héllo"}]
BODY = {"model": "tiny", "messages": MESSAGES, "max_tokens": 4}


@pytest.fixture(scope="module")
def both(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    options = [EngineOptions(flags=FLAGS, kv_transfer_config=config) for config in (ECHO, None)]
    with engines(tiny_model, tmp_path_factory.mktemp("engines"), *options) as started:
        yield started


@pytest.fixture
def engine(both: list[Engine]) -> Engine:
    return both[0]


@pytest.fixture
def without_connector(both: list[Engine]) -> Engine:
    return both[1]


def links_of(body: dict[str, Any]) -> list[list[Any]]:
    links, size = [], 0
    for link in chain(body):
        size += link.size
        links.append([link.digest.hex(), size])
    return links


def echo(engine: Engine, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
    response = engine.client.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()["kv_transfer_params"]


def test_chain_and_hints_of_a_chat_completion_reach_the_engine(engine: Engine) -> None:
    assert echo(engine, "/v1/chat/completions", BODY, HINTED) == {
        "others": {},
        "links": links_of(BODY),
        "program": "essay",
    }


def test_the_chain_alone_reaches_it_without_hints(engine: Engine) -> None:
    assert echo(engine, "/v1/chat/completions", BODY, KEY) == {
        "others": {},
        "links": links_of(BODY),
        "program": None,
    }


def test_hints_of_a_completion_reach_it(engine: Engine) -> None:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
    assert echo(engine, "/v1/completions", body, HINTED) == {"others": {}, "links": [], "program": "essay"}
    assert echo(engine, "/v1/completions", body, KEY) == {"others": {}}


def test_the_clients_own_parameters_reach_it_too(engine: Engine) -> None:
    body = {**BODY, "kv_transfer_params": {"mine": {"a": [1, None]}}}
    answer = echo(engine, "/v1/chat/completions", body, HINTED)
    assert answer["others"] == {"mine": {"a": [1, None]}}
    assert answer["program"] == "essay"


def test_a_body_that_is_chunked_and_large_is_read_alike(engine: Engine) -> None:
    messages = [*MESSAGES, {"role": "tool", "content": "x" * 600_000, "tool_call_id": "c"}]
    data = json.dumps({**BODY, "messages": MESSAGES, "metadata": {"long": messages[-1]["content"]}}).encode()
    pieces = (data[at : at + 50_000] for at in range(0, len(data), 50_000))
    response = engine.client.post(
        "/v1/chat/completions",
        content=pieces,
        headers={**HINTED, "content-type": "application/json"},
    )
    assert response.status_code == 200, response.text
    assert response.json()["kv_transfer_params"]["links"] == links_of(BODY)


def test_streams_stream(engine: Engine) -> None:
    with engine.client.stream(
        "POST", "/v1/chat/completions", json={**BODY, "stream": True}, headers=HINTED
    ) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"


def test_without_the_key_a_call_is_refused(engine: Engine) -> None:
    headers = {HINTS_HEADER: HINTED[HINTS_HEADER]}
    assert engine.client.post("/v1/chat/completions", json=BODY, headers=headers).status_code == 401


@pytest.mark.parametrize("header", ["", "(", "v=9", "x" * 5000, 'v=1, program="a"'])
def test_bad_hints_fail_nothing(engine: Engine, header: str) -> None:
    answer = echo(engine, "/v1/chat/completions", BODY, {**KEY, HINTS_HEADER: header})
    assert answer == {"others": {}, "links": links_of(BODY), "program": None}


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"{", {}),
        (b"[]", {}),
        (b'{"model": "tiny", "messages": "x"}', {}),
        (json.dumps({**BODY, "kv_transfer_params": 3}).encode(), {}),
        (gzip.compress(json.dumps(BODY).encode()), {"content-encoding": "gzip"}),
    ],
)
def test_what_vllm_refuses_it_still_refuses(engine: Engine, data: bytes, headers: dict[str, str]) -> None:
    response = engine.client.post(
        "/v1/chat/completions",
        content=data,
        headers={**HINTED, "content-type": "application/json", **headers},
    )
    assert response.status_code in (400, 422)


def test_without_a_connector_the_middleware_adds_nothing(without_connector: Engine) -> None:
    response = without_connector.client.post("/v1/chat/completions", json=BODY, headers=HINTED)
    assert response.status_code == 200
    assert response.json()["kv_transfer_params"] is None
    assert "kv_transfer_params" not in without_connector.log.read_text()


def test_many_calls_at_once_are_all_answered(engine: Engine) -> None:
    def call(index: int) -> Any:
        hints = Hints(program=Program(id=f"p{index}", priority=index), step=Step(id="s"))
        headers = {**KEY, HINTS_HEADER: encode_hints(hints)}
        return echo(engine, "/v1/chat/completions", BODY, headers)["program"]

    with ThreadPoolExecutor(24) as threads:
        assert list(threads.map(call, range(48))) == [f"p{index}" for index in range(48)]


def test_the_engines_log_names_no_fault(both: list[Engine]) -> None:
    for one in both:
        text = one.log.read_text()
        assert "Using custom scheduler class llmd_agents_vllm.scheduler.AgentScheduler" in text
        assert "Traceback" not in text
