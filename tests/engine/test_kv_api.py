"""Directives over HTTP, and two servers that copy from one another."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from llmd_agents import serving
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.hints import (
    KV_EXPORT_PATH,
    KV_PATH,
    Directive,
    EngineKv,
    Outcomes,
    Prefetch,
    Release,
    Retain,
    Warm,
    chain,
    decode_outcomes,
    encode_directives,
)

TINY = load_profile("tiny")
PROMPT: dict[str, Any] = {
    "model": "m",
    "max_tokens": 1,
    "messages": [{"role": "system", "content": "s" * 4000}, {"role": "user", "content": "u" * 4000}],
}
SYSTEM, USER = (link.digest for link in chain(PROMPT)[1:])


@contextmanager
def serve(count: int = 1, **options: Any) -> Iterator[list[httpx.Client]]:
    options = {"profile": TINY, "time_scale": 1000.0, **options}
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            url = stack.enter_context(serving.in_background(EngineServer(**options)))
            clients.append(stack.enter_context(httpx.Client(base_url=url, timeout=60)))
        yield clients


def direct(client: httpx.Client, *directives: Directive) -> list[tuple[str, str | None, int | None]]:
    body = encode_directives("m1", [(f"a{index}", each) for index, each in enumerate(directives)])
    answer = client.post(KV_PATH, content=body)
    assert answer.status_code == 200
    outcomes = decode_outcomes(answer.content)
    assert outcomes.message_id == "m1"
    assert [each.action_id for each in outcomes.outcomes] == [f"a{i}" for i in range(len(directives))]
    return [(each.outcome, each.reason, each.tokens) for each in outcomes.outcomes]


def cached(client: httpx.Client, body: dict[str, Any] = PROMPT) -> int:
    usage = client.post("/v1/chat/completions", json=body).json()["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def kv(client: httpx.Client) -> EngineKv:
    return EngineKv.model_validate_json(client.get(KV_PATH).content)


def test_directives_are_answered_and_counted() -> None:
    with serve(epoch="e1") as (client,):
        cached(client)
        answers = direct(
            client,
            Retain(digest=USER, after=5.0, expires=60.0),
            Release(digest=USER, keep=SYSTEM),
            Warm(digest=SYSTEM),
            Prefetch(digest=USER, tier="host"),
            Release(digest=bytes(16)),
        )
        told = kv(client)
        metrics = client.get("/metrics").text

    assert answers == [
        ("applied", None, 2004),
        ("applied", None, 1002),
        ("applied", None, 1002),
        ("unsupported", "this engine has no host tier", None),
        ("rejected", "unknown digest", None),
    ]
    assert (told.epoch, told.tiers, told.used) == ("e1", {"device": 16384}, {"device": 2000})
    assert told.directives == ("retain", "release", "prefetch", "warm")
    assert told.rates == TINY.rates
    assert 'llmd_engine_directives_total{model_name="tiny",outcome="applied",type="retain"} 1.0' in metrics
    assert 'llmd_engine_tier_tokens{model_name="tiny",tier="device"} 2000.0' in metrics
    assert 'vllm:prompt_tokens_cached_by_source_total{model_name="tiny",source="p2p"} 0.0' in metrics


def test_what_is_retained_is_told() -> None:
    with serve() as (client,):
        cached(client)
        direct(client, Retain(digest=USER, after=5.0, expires=10**6))
        assert kv(client).retained == {"": 2000}
        metrics = client.get("/metrics").text
    assert 'llmd_engine_retained_tokens{model_name="tiny"} 2000.0' in metrics


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"protocol_version": "9", "message_id": "m", "actions": []}', 400),
        (b'{"protocol_version": "0.1", "message_id": "m", "actions": 3}', 400),
        (b" " * ((8 << 20) + 1), 413),
    ],
)
def test_unreadable_messages_are_refused_in_openais_shape(body: bytes, status: int) -> None:
    with serve() as (client,):
        for path in (KV_PATH, KV_EXPORT_PATH):
            answer = client.post(path, content=body)
            if path == KV_PATH or status == 413:
                assert answer.status_code == status
            else:
                assert answer.status_code == 400
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert client.get("/health").status_code == 200


def test_bad_actions_harm_no_others() -> None:
    good = json.loads(encode_directives("m1", [("good", Warm(digest=bytes(16)))]))
    actions = [
        "no action",
        {"action_id": "new", "action_type": "teleport", "action_version": "1"},
        {"action_id": "later", "action_type": "warm", "action_version": "2"},
        {"action_id": "bad", "action_type": "retain", "action_version": "1", "payload": {"digest": "zz"}},
        *good["actions"],
    ]
    with serve() as (client,):
        answer = client.post(KV_PATH, json={**good, "actions": actions})
    outcomes = Outcomes.model_validate_json(answer.content).outcomes
    assert [each.outcome for each in outcomes] == [
        *("rejected", "unsupported", "unsupported", "rejected", "rejected")
    ]
    assert outcomes[-1].reason == "this engine remembers no prompt with it"


def test_ten_thousand_actions_starve_nobody() -> None:
    with serve() as (client,):
        cached(client)
        actions = [(f"a{index}", Retain(digest=USER, after=1.0, expires=9.0)) for index in range(10_000)]
        body = encode_directives("many", actions)
        answers: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: answers.append(client.post(KV_PATH, content=body)))
        thread.start()
        with httpx.Client(base_url=client.base_url, timeout=60) as other:
            while not answers:
                assert cached(other) == 2000
        thread.join()
    outcomes = decode_outcomes(answers[0].content).outcomes
    assert [each.outcome for each in outcomes] == ["applied"] * 1000 + ["rejected"] * 9000


def test_context_is_copied_from_a_peer() -> None:
    with serve(2) as (there, here):
        cached(there)
        base = str(there.base_url)
        assert direct(here, Prefetch(digest=USER, peer=base)) == [("applied", None, 2004)]
        assert cached(here) == 2000
        metrics = here.get("/metrics").text
        assert kv(here).used == {"device": 2000}
    source = 'source="{}"'
    assert f'vllm:prefix_cache_hits_total{{model_name="tiny"}} {2000.0}' in metrics
    assert f'llmd_engine_transferred_bytes_total{{model_name="tiny",{source.format("p2p")}}}' in metrics


def test_peers_that_do_not_have_it_or_are_none() -> None:
    with serve(2) as (there, here):
        base = str(there.base_url)
        answers = direct(
            here,
            Prefetch(digest=USER, peer=base),
            Prefetch(digest=USER, peer="http://127.0.0.1:9"),
            Prefetch(digest=USER, peer="file:///etc/passwd"),
            Prefetch(digest=USER, peer="http://"),
            Prefetch(digest=USER, peer=f"{base}/v1"),
            Prefetch(digest=USER, peer="http://[bad"),
        )
        shown = there.post(KV_EXPORT_PATH, json={"digest": "00" * 16})
    not_one = ("rejected", "the peer's URL must begin with http:// or https://", None)
    assert answers == [
        ("rejected", "the peer does not hold it", None),
        ("rejected", "the peer cannot be reached", None),
        not_one,
        not_one,
        ("rejected", "the peer does not hold it", None),
        not_one,
    ]
    assert shown.status_code == 404
    assert shown.json()["error"]["message"] == "the context is not here"


def test_peer_of_another_block_size() -> None:
    with serve() as (there,), serve(profile=dataclasses.replace(TINY, block_size=32)) as (here,):
        cached(there)
        answers = direct(here, Prefetch(digest=USER, peer=str(there.base_url)))
    assert answers == [("rejected", "the peer's blocks are of 16 tokens", None)]


def test_a_peer_that_answers_nonsense() -> None:
    async def nonsense(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":

            async def nothing() -> None:
                pass

            await serving.lifespan(receive, send, nothing, nothing)
        else:
            await serving.send_bytes(send, 200, b'{"tokens": "many"}', b"application/json")

    with serving.in_background(nonsense) as url, serve() as (here,):
        answers = direct(here, Prefetch(digest=USER, peer=url))
    assert answers == [("rejected", "the peer's answer cannot be read", None)]


def test_lru_engines_stay_as_they_were() -> None:
    with serve(eviction="lru") as (client,):
        cached(client)
        assert kv(client).directives == ("prefetch", "warm")
        assert direct(client, Release(digest=USER))[0][0] == "unsupported"
