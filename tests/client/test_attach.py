"""Where hints go and where not: bare HTTP clients, hosts, other stacks' words, OpenAI's own servers."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from llmd_agents import attach, instrument, program
from llmd_agents.client.sender import httpx as openai_httpx
from llmd_agents.hints.dialects import Surroundings
from tests.recording import Reply, recording_server

BODY: Any = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("library", [httpx, openai_httpx])
def test_a_bare_http_client_makes_steps(library: Any) -> None:
    with recording_server() as (recorded, url), library.Client() as client:
        assert attach(attach(client)) is client
        with program("p"):
            assert client.post(f"{url}/chat/completions", json=BODY).json()["usage"]["prompt_tokens"] == 10
            with client.stream("POST", f"{url}/chat/completions", json={**BODY, "stream": True}) as response:
                assert b"fine" in b"".join(response.iter_bytes())
            client.get(f"{url}/models")
            client.post(f"{url}/embeddings", json={"input": "x"})
    assert [hints.step.parents for hints in recorded.steps] == [(), ("s1",)]
    others = [request for request in recorded.requests if request not in recorded.calls]
    assert all("x-llmd-hints" not in request.headers for request in others)


@pytest.mark.parametrize("library", [httpx, openai_httpx])
def test_an_async_http_client_makes_steps(library: Any) -> None:
    async def main(url: str) -> None:
        async with attach(library.AsyncClient()) as client, program("p"):
            await client.post(f"{url}/chat/completions", json=BODY)
            async with client.stream("POST", f"{url}/chat/completions", json=BODY) as response:
                assert b"fine" in await response.aread()

    with recording_server() as (recorded, url):
        asyncio.run(main(url))
    assert [hints.step.parents for hints in recorded.steps] == [(), ("s1",)]


def test_hints_go_only_to_the_hosts_that_are_named() -> None:
    with recording_server() as (recorded, url), httpx.Client() as client:
        attach(client, hosts=["router.internal", "LOCALHOST"])
        with program("p"):
            client.post(f"{url}/chat/completions", json=BODY)
            client.post(f"{url.replace('127.0.0.1', 'localhost')}/chat/completions", json=BODY)
    assert ["x-llmd-hints" in call.headers for call in recorded.calls] == [False, True]


def test_services_on_hosts_that_are_named_are_told_the_programs_id() -> None:
    with recording_server() as (recorded, url), httpx.Client() as client, httpx.Client() as other:
        attach(client, hosts=["127.0.0.1"])
        attach(other)
        with program("p") as run:
            client.post(f"{url}/search", headers={"baggage": "tenant=a"})
            client.get(f"{url}/search")
            client.post(f"{url}/chat/completions", json=BODY)
            client.post(f"{url.replace('127.0.0.1', 'localhost')}/search")
            other.post(f"{url}/search")
        client.get(f"{url}/search")
    told = [request.headers.get("baggage") for request in recorded.requests if "agent" not in request.path]
    assert told == [f"tenant=a,llmd-program={run.id}", f"llmd-program={run.id}", None, None, None, None]


def test_what_is_no_http_client_is_refused() -> None:
    for thing in (None, object(), "http://127.0.0.1"):
        with pytest.raises(TypeError, match="httpx"):
            attach(thing)
    with OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k") as client:
        with pytest.raises(ValueError, match="klingon"):
            instrument(client, dialects=["klingon"])
        with pytest.raises(ValueError, match="kv_hints"):
            instrument(client, dialects=["kv_hints"])


def test_dialects_add_headers_and_members_and_leave_the_callers_own() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client, dialects=["llm_d", "dynamo", "openai"])
        create: Any = client.chat.completions.create
        with program("p", priority=70) as run:
            create(**BODY)
            create(**BODY, prompt_cache_key="mine", extra_headers={"x-session-id": "mine"})
    ours, theirs = recorded.calls
    assert ours.json["messages"] == BODY["messages"]
    assert ours.json["prompt_cache_key"] == run.id
    assert ours.headers["x-llm-d-inference-fairness-id"] == run.id
    assert "nvext" in ours.json
    assert int(ours.headers["content-length"]) == len(ours.body)
    assert theirs.json["prompt_cache_key"] == "mine"
    assert theirs.headers["x-session-id"] == "mine"
    assert ours.hints.step.id == "s1"
    assert recorded.steps[1].extends == recorded.steps[0].digest  # the body was read before it was changed


def test_dialects_are_told_of_the_servers_and_of_the_branch() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(
            client,
            dialects=["llm_d", "vllm", "dynamo"],
            surroundings=Surroundings(objective="batch", orders_by_priority=True),
        )
        create: Any = client.chat.completions.create
        with program("p", priority=70) as run, run.fork(1) as fork, fork.branch():
            create(**BODY)
    (call,) = recorded.calls
    assert call.headers["x-llm-d-inference-objective"] == "batch"
    assert call.json["priority"] < 0  # in vLLM, lower runs earlier
    assert run.id in call.headers["x-dynamo-parent-trajectory-id"]


def test_async_clients_speak_dialects_too() -> None:
    async def main(url: str) -> None:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client, dialects=["openai"])
            async with program("p"):
                stream = await client.chat.completions.create(**BODY, stream=True)
                assert [chunk async for chunk in stream]

    with recording_server() as (recorded, url):
        asyncio.run(main(url))
    assert recorded.calls[0].json["prompt_cache_key"].startswith("p-")


def test_openais_own_servers_get_a_cache_key_and_no_header() -> None:
    """The recording server stands in as the proxy through which they are reached."""
    with (
        recording_server() as (recorded, url),
        openai_httpx.Client(proxy=url.removesuffix("/v1")) as proxied,
        OpenAI(base_url="http://api.openai.com/v1", api_key="k", http_client=proxied) as client,
    ):
        instrument(client)
        with program("p") as run:
            client.chat.completions.create(**BODY)
    (request,) = recorded.requests  # and no event either
    assert request.headers["host"] == "api.openai.com"
    assert "x-llmd-hints" not in request.headers
    assert json.loads(request.body) == {**BODY, "prompt_cache_key": run.id}
    assert [record.status for record in run.history.steps] == [200]


def test_a_body_that_no_dialect_can_be_added_to_goes_out_as_it_is() -> None:
    body = b'{"messages":[{"role":"user","content":"\\ud800"}],"model":"m"}'
    with recording_server() as (recorded, url), httpx.Client() as client:
        attach(client, dialects=["openai"])
        with program("p"):
            client.post(f"{url}/chat/completions", content=body)
    assert recorded.calls[0].body == body
    assert recorded.steps[0].step.id == "s1"


def test_retries_carry_the_changed_body() -> None:
    statuses = iter([503, 200])

    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.reply = lambda _: Reply(status=next(statuses), headers={"retry-after-ms": "1"})
        instrument(client, dialects=["openai"])
        with program("p"):
            client.chat.completions.create(**BODY)
    assert recorded.calls[0].body == recorded.calls[1].body
    assert "prompt_cache_key" in recorded.calls[1].json


def posts(client: Any, url: str = "http://one/v1/chat/completions") -> Any:
    return client.post(url, json=BODY)


@pytest.mark.parametrize("library", [httpx, openai_httpx])
def test_a_redirected_call_is_one_step_and_observed_where_it_ends(library: Any) -> None:
    seen: list[tuple[str, bool]] = []

    def answer(request: Any) -> Any:
        seen.append((request.url.host, "x-llmd-hints" in request.headers))
        if request.url.host == "one":
            away = str(request.url).replace("one", "two")
            return library.Response(307, headers={"location": away}, json={"usage": {"prompt_tokens": 1}})
        return library.Response(200, json={"usage": {"prompt_tokens": 10}})

    for hosts in (None, ["one"]):
        transport = library.MockTransport(answer)
        with library.Client(transport=transport, follow_redirects=True) as client, program("p") as run:
            posts(attach(client, hosts=hosts))
        assert [(record.step, record.status, record.input_tokens) for record in run.history.steps] == [
            ("s1", 200, 10)
        ]
    # Where the hosts are named, hints go to no other, whoever sends the call there.
    assert seen == [("one", True), ("two", True), ("one", True), ("two", False)]


def test_a_redirection_takes_no_baggage_and_no_dialect_elsewhere() -> None:
    seen: list[tuple[str, Any, bool]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        headers = request.headers
        seen.append((request.url.host, headers.get("baggage"), "x-session-id" in headers))
        away = {"location": str(request.url).replace("one", "two")}
        return httpx.Response(307 if request.url.host == "one" else 200, headers=away, json={})

    with httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True) as client:
        attach(client, hosts=["one"], dialects=["llm_d"])
        with program("p") as run:
            client.post("http://one/search", headers={"baggage": "tenant=a"})
            posts(client)
    assert seen == [
        ("one", f"tenant=a,llmd-program={run.id}", False),
        ("two", "tenant=a", False),
        ("one", None, True),
        ("two", None, False),
    ]


@pytest.mark.parametrize("library", [httpx, openai_httpx])
def test_hooks_that_the_application_sets_later_stand_beside_ours(library: Any) -> None:
    seen: list[str] = []
    transport = library.MockTransport(lambda request: library.Response(200, json={}))
    with attach(library.Client(transport=transport)) as client, program("p") as run:
        client.event_hooks = {"request": [lambda request: seen.append(request.method)]}
        for _ in range(2):
            posts(client)
    assert seen == ["POST", "POST"]
    assert [record.status for record in run.history.steps] == [200, 200]
    assert len(client.event_hooks["request"]) == 2


def test_a_request_that_is_sent_again_after_its_answer_is_another_step() -> None:
    statuses = iter([503, 200, 200])
    transport = httpx.MockTransport(lambda _: httpx.Response(next(statuses), json={}))
    with attach(httpx.Client(transport=transport)) as client, program("p") as run:
        request = client.build_request("POST", "http://one/v1/chat/completions", json=BODY)
        for _ in range(3):
            client.send(request)
    assert [(record.step, record.parents) for record in run.history.steps] == [("s1", ()), ("s2", ("s1",))]


def test_a_password_in_the_url_is_told_to_nobody() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={}))
    with attach(httpx.Client(transport=transport)) as client, program("p") as run:
        posts(client, "http://user:secret@one/v1/chat/completions?key=secret")
    assert [record.server for record in run.history.steps] == ["http://one/v1"]


@pytest.mark.parametrize("library", [httpx, openai_httpx])
def test_a_clients_own_way_of_sending_is_kept(library: Any) -> None:
    class Counting(library.Client):  # type: ignore[misc]
        sent = 0

        def send(self, request: Any, **options: Any) -> Any:
            self.sent += 1
            return super().send(request, **options)

    transport = library.MockTransport(lambda request: library.Response(200, json={}))
    with attach(Counting(transport=transport)) as client, program("p") as run:
        posts(client)
        client.get("http://one/v1/models")
    assert client.sent == 2
    assert len(run.history.steps) == 1
