"""Stored responses: only one engine can continue, show or delete each, and calls find it."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.engine import EngineServer
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
from llmd_agents.router import EngineConfig, Router, RouterConfig
from llmd_agents.router.bodies import previous_response
from llmd_agents.router.routes import response_named
from llmd_agents.router.stored_responses import StoredAt, StoredResponses
from llmd_agents.serving import in_background
from tests.router.plain_engines import PlainEngine
from tests.stack.servers import FAST, Stack, engine_process, small_profile, stack, wait_for

PATH = "/v1/responses"


def engines(count: int) -> list[EngineServer]:
    """Engines whose responses' ids tell who made them."""
    return [EngineServer(small_profile(), time_scale=FAST, epoch=f"e{index}") for index in range(count)]


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack(engines(3)) as running:
        yield running


@pytest.fixture
def http(servers: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers.router, timeout=30) as client:
        yield client


def post(client: httpx.Client, text: str, previous: Any = None, **more: Any) -> Any:
    value = {"model": "m", "input": text, **more}
    if previous is not None:
        value["previous_response_id"] = previous["id"]
    return client.post(PATH, json=value).raise_for_status().json()


def engine_of(response: Any) -> str:
    return str(response["id"].removeprefix("resp_").partition("-")[0])


def hinted(value: dict[str, Any], program: str, step: str, **fields: Any) -> dict[str, str]:
    declared = Hints(
        program=Program(id=program), step=Step(id=step), segments=segments_of(chain(value)), **fields
    )
    return {"x-llmd-hints": encode_hints(declared)}


def test_conversations_stay_with_the_engine_that_stores_them(http: httpx.Client) -> None:
    first = [post(http, f"Conversation {number}") for number in range(9)]
    assert len({engine_of(response) for response in first}) == 3
    second = [post(http, "On", response) for response in first]
    third = [post(http, "And on", response) for response in second]
    for turns in zip(first, second, third, strict=True):
        assert len({engine_of(response) for response in turns}) == 1
    assert len({response["id"] for response in [*first, *second, *third]}) == 27


def test_they_are_shown_and_deleted_there(http: httpx.Client) -> None:
    made = [post(http, f"Show {number}") for number in range(6)]
    for response in made:
        assert http.get(f"{PATH}/{response['id']}").json() == response
        assert http.post(f"{PATH}/{response['id']}/cancel").status_code == 400
        assert http.delete(f"{PATH}/{response['id']}").json()["deleted"] is True
        assert http.get(f"{PATH}/{response['id']}").status_code == 404
        assert http.delete(f"{PATH}/{response['id']}").status_code == 404


def test_one_that_was_streamed_is_found(http: httpx.Client) -> None:
    for number in range(6):
        streamed = http.post(PATH, json={"model": "m", "input": f"Stream {number}", "stream": True}).text
        last = json.loads(streamed.strip().split("data: ")[-1])
        assert last["type"] == "response.completed"
        assert http.get(f"{PATH}/{last['response']['id']}").json() == last["response"]
        assert engine_of(post(http, "On", last["response"])) == engine_of(last["response"])


@pytest.mark.parametrize("mode", ["act", "observe", "off"])
def test_that_is_no_matter_of_hints(mode: str) -> None:
    with stack(engines(2), mode=mode) as servers, httpx.Client(base_url=servers.router) as http:
        first = [post(http, f"Mode {number}") for number in range(6)]
        assert [engine_of(post(http, "On", each)) for each in first] == [engine_of(each) for each in first]


def test_an_unknown_one_is_an_error_in_openais_form(servers: Stack) -> None:
    with openai.OpenAI(base_url=f"{servers.router}/v1", api_key="k", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            client.responses.create(model="m", input="x", previous_response_id="resp_unknown")
        assert raised.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError, match="resp_unknown"):
            client.responses.retrieve("resp_unknown")


def test_another_router_finds_them_by_asking(servers: Stack, http: httpx.Client) -> None:
    first = [post(http, "Find me. " * 30 + str(number)) for number in range(6)]
    settings = RouterConfig(engines=tuple(EngineConfig(url=url) for url in servers.engines))
    with (
        in_background(Router(settings)) as other,
        httpx.Client(base_url=other, timeout=30) as elsewhere,
    ):
        for response in first[:3]:
            assert elsewhere.get(f"{PATH}/{response['id']}").json() == response
        for response in first:
            following = post(elsewhere, "On", response)
            assert engine_of(following) == engine_of(response)
            # From here on it is known.
            assert engine_of(post(elsewhere, "On", following)) == engine_of(response)


def test_residency_leads_there_first() -> None:
    plain = engines(2)
    with stack(plain) as first_servers, httpx.Client(base_url=first_servers.router) as http:
        first = [post(http, "Resident. " * 60 + str(number)) for number in range(6)]
        settings = RouterConfig(engines=tuple(EngineConfig(url=url) for url in first_servers.engines))
        router = Router(settings)
        with in_background(router) as url, httpx.Client(base_url=url, timeout=30) as elsewhere:
            states = router.runtime.engines.values()
            wait_for(lambda: all(state.epoch is not None for state in states))
            for response in first:
                assert engine_of(post(elsewhere, "On", response)) == engine_of(response)
            # Nobody was asked in vain.
            assert sum(state.requests for state in states) == 6


def test_the_branch_goes_on_in_the_graph_and_nothing_of_it_is_released() -> None:
    with stack(engines(2)) as servers, httpx.Client(base_url=servers.router, timeout=30) as http:
        opening = {"model": "m", "instructions": "Be brief. " * 20, "input": "x" * 4000}
        wait = {"forecast": Forecast(next=Next.TOOL, after=5.0)}
        made = http.post(PATH, json=opening, headers=hinted(opening, "p", "s1", **wait))
        assert decode_ack(made.headers["x-llmd-ack"]).accepted == ("program", "step", "segments", "next")
        first = made.json()
        following = {**opening, "input": "On", "previous_response_id": first["id"]}
        second = http.post(PATH, json=following, headers=hinted(following, "p", "s2")).json()
        graph = servers.program("p")
        assert [step["status"] for step in graph["steps"]] == ["finished", "finished"]
        assert [step["prompt_tokens"] for step in graph["steps"]] == [
            first["usage"]["input_tokens"],
            second["usage"]["input_tokens"],
        ]
        assert graph["steps"][1]["cached_tokens"] == (first["usage"]["total_tokens"] - 1) // 16 * 16
        (branch,) = graph["branches"]
        # All that was said counts, though the second call named it by a few bytes.
        said = sum(link.size for link in chain(opening)) + 4 * first["usage"]["output_tokens"]
        assert branch["context_bytes"] == said + chain(following)[-1].size
        assert set(branch["residency"]) == {graph["steps"][0]["engine"]}
        assert "release" not in graph["directives"]


def test_engines_that_tell_nothing_are_believed_to_hold_what_they_answered() -> None:
    plain = [PlainEngine(), PlainEngine()]
    with stack(plain) as servers, httpx.Client(base_url=servers.router, timeout=30) as http:
        opening = {"model": "m", "input": "x" * 4000}
        first = http.post(PATH, json=opening, headers=hinted(opening, "p", "s1")).json()
        following = {"model": "m", "input": "On", "previous_response_id": first["id"]}
        http.post(PATH, json=following, headers=hinted(following, "p", "s2")).raise_for_status()
        (branch,) = servers.program("p")["branches"]
        ((name, held),) = branch["residency"].items()
        assert (held["bytes"], held["certain"]) == (branch["context_bytes"], True)
        assert branch["context_bytes"] > 4000
        assert len(plain[int(name.removeprefix("engine-"))].calls) == 2


def test_one_tenants_responses_are_nothing_to_another() -> None:
    tenants = ({"name": "red", "api_keys": ["r1"]}, {"name": "blue", "api_keys": ["b1"]})
    # Engines as a router finds them: this one would show anyone's response to whom it lets in.
    with stack([PlainEngine()], tenants=tenants) as servers:
        red, blue = (
            httpx.Client(base_url=servers.router, headers={"authorization": f"Bearer {key}"})
            for key in ("r1", "b1")
        )
        with red, blue:
            made = post(red, "A secret.")
            assert red.get(f"{PATH}/{made['id']}").json() == made
            assert post(red, "On", made)["previous_response_id"] == made["id"]
            for method in ("GET", "DELETE"):
                assert blue.request(method, f"{PATH}/{made['id']}").status_code == 404
                encoded = f"{PATH}/%{ord('r'):x}{made['id'][1:]}"
                assert blue.request(method, encoded).status_code == 404
            name = "previous_response_id"
            for key in (name, "previous\\u005fresponse_id"):
                body = f'{{"model": "m", "input": "On", "{key}": "{made["id"]}"}}'
                for data in (body, f'{{"{key}": null, {body[1:]}', f'{{"x": "\\ud800", {body[1:]}'):
                    refused = blue.post(PATH, content=data)
                    assert refused.status_code == 404
                    assert refused.json()["error"]["code"] == "previous_response_not_found"
            assert red.get(f"{PATH}/{made['id']}").json() == made


def test_an_engine_that_is_gone_has_taken_them_along() -> None:
    options = ("--profile", "tiny", "--time-scale", "1000")
    with (
        engine_process(*options) as (victim, victim_url),
        stack([EngineServer(small_profile(), time_scale=FAST, epoch="other")]) as spare,
    ):
        urls = (victim_url, *spare.engines)
        config = RouterConfig(engines=tuple(EngineConfig(url=url) for url in urls), health_interval_s=0.05)
        router = Router(config)
        with in_background(router) as url, httpx.Client(base_url=url, timeout=30) as http:
            made: list[Any] = []
            while not made or engine_of(made[-1]) == "other":
                made.append(post(http, f"Try {len(made)}"))
            victim.kill()
            wait_for(lambda: not router.runtime.engines["engine-0"].up)
            value = {"model": "m", "input": "On", "previous_response_id": made[-1]["id"]}
            refused = http.post(PATH, json=value)
            assert refused.status_code == 404
            assert refused.json()["error"]["code"] == "previous_response_not_found"
            assert post(http, "Anew")["status"] == "completed"


def test_no_more_are_remembered_than_that() -> None:
    places = StoredResponses(most=2)
    for name in "abc":
        places.note("t", name, StoredAt("e", None))
    assert [places.find("t", name) is not None for name in "abc"] == [False, True, True]
    places.find("t", "b")
    places.note("t", "d", StoredAt("e", None))
    assert [places.find("t", name) is not None for name in "bcd"] == [True, False, True]
    places.note("t", "x" * 1000, StoredAt("e", None))
    assert len(places) == 2
    assert places.find("other", "b") is None
    places.forget("t", "b")
    places.forget("t", "b")
    assert places.find("t", "b") is None


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/responses", None),
        ("/v1/responses/", None),
        ("/v1/responses/compact", None),
        ("/v1/responses/input_tokens", None),
        ("/v1/responses/resp_1", "resp_1"),
        ("/v1/responses/resp_1/cancel", "resp_1"),
        ("/v1/responsesx/resp_1", None),
        ("/v1/chat/completions/x", None),
    ],
)
def test_paths(path: str, named: str | None) -> None:
    assert response_named(path) == named


@pytest.mark.parametrize(
    ("body", "previous"),
    [
        (b'{"previous_response_id": "a"}', "a"),
        (b'{"previous_response_id": "a", "previous_response_id": "b"}', "b"),
        (b'{"previous\\u005fresponse_id": "a"}', "a"),
        (b'{"previous_response_id": "a", "x": "\\ud800"}', "a"),
        (b'{"previous_response_id": "a", "x": NaN}', "a"),
        (b'{"previous_response_id": null}', None),
        (b'{"previous_response_id": 7}', None),
        (b'{"input": {"previous_response_id": "a"}}', None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_bodies(body: bytes, previous: str | None) -> None:
    assert previous_response(body) == previous


@given(st.binary())
def test_any_body_at_all(body: bytes) -> None:
    assert previous_response(body) is None or b"previous" in body
