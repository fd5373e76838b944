"""Completions and Responses are placed, counted, warmed up and given priorities as chat completions are."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from llmd_agents.hints import (
    Forecast,
    Hints,
    Next,
    Program,
    Step,
    chain,
    decode_ack,
    encode_hints,
    segments_of,
)
from tests.router.plain_engines import PlainEngine
from tests.stack.servers import Stack, stack, wait_for

LONG = "shared " * 1500
ROUTES = {
    "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": LONG}], "max_tokens": 2},
    "/v1/completions": {"model": "m", "prompt": LONG, "max_tokens": 2},
    "/v1/responses": {"model": "m", "input": LONG, "max_output_tokens": 2},
}
every_route = pytest.mark.parametrize("path", ROUTES)


@pytest.fixture
def servers() -> Iterator[Stack]:
    with stack(2) as running:
        yield running


def hinted(value: dict[str, Any], program: str = "p", priority: int = 50, **fields: Any) -> dict[str, str]:
    declared = Hints(
        program=Program(id=program, priority=priority),
        step=Step(id="s1"),
        segments=segments_of(chain(value)),
        **fields,
    )
    return {"x-llmd-hints": encode_hints(declared)}


def longer(path: str) -> dict[str, Any]:
    """Returns a call that goes on where that of the route ends."""
    value = json.loads(json.dumps(ROUTES[path]))
    if "messages" in value:
        value["messages"].append({"role": "user", "content": "more"})
    elif "input" in value:
        value["input"] = [{"role": "user", "content": LONG}, {"role": "user", "content": "more"}]
    else:
        value["prompt"] += "more"
    return dict(value)


def cached(answer: Any) -> int:
    usage = answer["usage"]
    details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
    return int(details["cached_tokens"])


@every_route
def test_hints_are_read_and_the_step_is_counted(servers: Stack, path: str) -> None:
    value = ROUTES[path]
    answer = httpx.post(servers.router + path, json=value, headers=hinted(value))
    assert decode_ack(answer.headers["x-llmd-ack"]).accepted == ("program", "step", "segments")
    (step,) = servers.program("p")["steps"]
    usage = answer.json()["usage"]
    assert step["status"] == "finished"
    assert step["prompt_tokens"] == (usage.get("prompt_tokens") or usage["input_tokens"])
    assert (step["cached_tokens"], step["output_tokens"]) == (0, 2)
    (branch,) = servers.program("p")["branches"]
    assert branch["context_bytes"] == sum(link.size for link in chain(value))


@every_route
def test_without_hints_a_call_goes_where_its_context_is(servers: Stack, path: str) -> None:
    httpx.post(servers.router + path, json=ROUTES[path]).raise_for_status()
    for _ in range(3):
        answer = httpx.post(servers.router + path, json=longer(path)).raise_for_status().json()
        assert cached(answer) > 2000
    assert sorted(view["requests"] for view in servers.engine_views()) == [0, 4]


@every_route
def test_streams_are_counted_and_no_client_sees_it(servers: Stack, path: str) -> None:
    value = {**ROUTES[path], "stream": True}
    text = httpx.post(servers.router + path, json=value, headers=hinted(value)).text
    (step,) = servers.program("p")["steps"]
    assert step["prompt_tokens"] > 2000
    assert step["output_tokens"] == 2
    if path != "/v1/responses":
        chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        assert all(chunk["choices"] and chunk.get("usage") is None for chunk in chunks)
        assert text.endswith("data: [DONE]\n\n")


@every_route
def test_a_forecast_fork_is_replicated_by_a_warm_up(path: str) -> None:
    plain = [PlainEngine(), PlainEngine()]
    with stack(plain) as servers:
        value = {**ROUTES[path], "stream": True}
        fork = Forecast(next=Next.FORK, fan_out=200)
        httpx.post(servers.router + path, json=value, headers=hinted(value, forecast=fork))
        wait_for(lambda: servers.program("p")["directives"] == {"warm": {"applied": 1}})
        (warm_up,) = [seen for engine in plain for seen in engine.warm_ups]
        assert warm_up.path == path
        assert warm_up.body["stream"] is False
        assert warm_up.body.get("max_tokens", warm_up.body.get("max_output_tokens")) == 1
        (branch,) = servers.program("p")["branches"]
        assert {held["certain"] for held in branch["residency"].values()} == {True}
        assert len(branch["residency"]) == 2


@every_route
def test_a_programs_priority_is_spliced_in(path: str) -> None:
    engine = PlainEngine()
    value = ROUTES[path]
    with stack([engine]) as servers:
        servers.brain._priorities.accepted("engine-0")
        httpx.post(servers.router + path, json=value, headers=hinted(value, priority=90)).raise_for_status()
    assert [seen.body["priority"] for seen in engine.calls] == [-40]


@every_route
def test_a_tenants_salt_is_spliced_in(path: str) -> None:
    tenants = ({"name": "red", "api_keys": ["r1"]}, {"name": "blue", "api_keys": ["b1"]})
    with stack(1, tenants=tenants) as servers:
        hits = [
            cached(
                httpx.post(
                    servers.router + path, json=ROUTES[path], headers={"authorization": f"Bearer {key}"}
                ).json()
            )
            for key in ("r1", "b1", "r1")
        ]
    assert hits[:2] == [0, 0]
    assert hits[2] > 2000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/v1/completions", {"model": "m", "prompt": ["one", "two"]}),
        ("/v1/completions", {"model": "m", "prompt": {"id": "x"}}),
        ("/v1/responses", {"model": "m", "input": "x", "conversation": "conv_1"}),
        ("/v1/responses", {"model": "m", "input": {"role": "user"}}),
        ("/v1/embeddings", {"model": "m", "input": ["x", "y"]}),
    ],
)
def test_what_has_no_chain_is_for_the_engine_to_answer(
    servers: Stack, path: str, value: dict[str, Any]
) -> None:
    header = {"x-llmd-hints": 'program="p", step="s1"'}
    through, direct = (
        httpx.post(url + path, json=value, headers=header) for url in (servers.router, servers.engines[0])
    )
    assert (through.status_code, through.json()) == (direct.status_code, direct.json())
    assert through.status_code in (400, 404)
    assert ("x-llmd-ack" in through.headers) is (path != "/v1/embeddings")
