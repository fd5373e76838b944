"""Whatever is sent to the engine's routes is answered, action by action, and does the engine no harm."""

import json
from typing import Any

import pytest

from harness.engines import Engine, cached_tokens
from harness.hinted import tip
from llmd_agents.hints import HINTS_HEADER, KV_PATH, Release, Retain, residency_scope
from llmd_agents.hints.limits import ACTIONS_PER_MESSAGE_MAX, DIRECTIVES_BODY_MAX_BYTES
from tests.servers.fleet import TELLING, Fleet, context, directed

KNOWN = context("known", 40)
DIGEST = tip(KNOWN).hex()
GOOD = {
    "action_id": "good",
    "action_type": "retain",
    "action_version": "1",
    "payload": {"digest": DIGEST, "after": 1.0, "expires": 60.0},
}


def action(kind: str = "retain", version: Any = "1", **payload: Any) -> dict[str, Any]:
    payload = {"digest": DIGEST, "after": 1.0, "expires": 60.0, **payload} if kind == "retain" else payload
    return {"action_id": "bad", "action_type": kind, "action_version": version, "payload": payload}


def sent(engine: Engine, *actions: Any, **envelope: Any) -> tuple[int, Any]:
    body = {"protocol_version": "0.1", "message_id": "m", "actions": list(actions), **envelope}
    response = engine.client.post(KV_PATH, content=json.dumps(body))
    return response.status_code, response.json()


def unharmed(engine: Engine) -> bool:
    """Whether it answers, knows its cache, and does what it is told."""
    answer = engine.chat(KNOWN)
    (outcome,) = directed(engine, Retain(digest=tip(KNOWN), after=1.0, expires=60.0))
    return cached_tokens(answer) > 0 and outcome.outcome == "applied"


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        (action("explode"), "unsupported"),
        (action(version="2"), "unsupported"),
        (action(version=1), "rejected"),
        (action(digest=DIGEST[:-1]), "rejected"),
        (action(digest="zz" * 16), "rejected"),
        (action(digest="00" * 16), "rejected"),
        (action(digest=None), "rejected"),
        (action(digest=[DIGEST]), "rejected"),
        (action(after=-1), "rejected"),
        (action(after="NaN"), "rejected"),
        (action(expires=1e300), "rejected"),
        (action(sigma={}), "rejected"),
        (action(weight=2), "rejected"),
        (action(scope=7), "rejected"),
        (action(scope=residency_scope("another tenant")), "rejected"),
        (action("release", digest=DIGEST, scope=residency_scope("another tenant")), "rejected"),
        (action("release"), "rejected"),
        (action("prefetch", digest=DIGEST), "rejected"),
        (action("prefetch", digest=DIGEST, tier="host", peer="http://127.0.0.1:1"), "rejected"),
        (action("prefetch", digest=DIGEST, tier="host"), "unsupported"),
        (action("prefetch", digest=DIGEST, peer="file:///etc/passwd"), "unsupported"),
        (action("demote", digest=DIGEST, tier="x" * 1000), "rejected"),
        (action("demote", digest=DIGEST, tier="nowhere"), "unsupported"),
        (action("warm", digest="11" * 16), "rejected"),
        ({**GOOD, "payload": [1]}, "rejected"),
        ({**GOOD, "payload": {"digest": DIGEST}}, "rejected"),
        ({**GOOD, "action_id": ""}, "rejected"),
        ({**GOOD, "action_id": 3}, "rejected"),
        (None, "rejected"),
        ([], "rejected"),
        ("retain", "rejected"),
    ],
)
def test_a_bad_action_is_refused_alone(engines: Fleet, bad: Any, outcome: str) -> None:
    engine = engines.engines[0]
    engine.chat(KNOWN)
    status, answer = sent(engine, GOOD, bad, GOOD)
    assert status == 200
    assert [one["outcome"] for one in answer["outcomes"]] == ["applied", outcome, "applied"]
    assert answer["outcomes"][1]["reason"]
    assert unharmed(engine)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no JSON", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"{}", 400),
        (b"[" * 100_000, 400),
        (b'{"protocol_version": "9", "message_id": "m", "actions": []}', 400),
        (b'{"protocol_version": "0.1", "message_id": "", "actions": []}', 400),
        (b'{"protocol_version": "0.1", "message_id": "m", "actions": {}}', 400),
        (b" " * (DIRECTIVES_BODY_MAX_BYTES + 1), 413),
        (b'{"protocol_version": "0.1", "message_id": "m", "actions": []}', 200),
    ],
)
def test_what_is_no_message_is_refused_as_a_whole(engines: Fleet, body: bytes, status: int) -> None:
    engine = engines.engines[0]
    engine.chat(KNOWN)
    assert engine.client.post(KV_PATH, content=body).status_code == status
    assert unharmed(engine)


def test_of_ten_thousand_actions_the_first_thousand_are_taken(engines: Fleet) -> None:
    engine = engines.engines[0]
    engine.chat(KNOWN)
    status, answer = sent(engine, *[{**GOOD, "action_id": f"a{at}"} for at in range(10_000)])
    assert status == 200
    outcomes = answer["outcomes"]
    assert [one["action_id"] for one in outcomes] == [f"a{at}" for at in range(10_000)]
    taken = [one["outcome"] for one in outcomes[:ACTIONS_PER_MESSAGE_MAX]]
    assert taken == ["applied"] * ACTIONS_PER_MESSAGE_MAX
    assert {one["outcome"] for one in outcomes[ACTIONS_PER_MESSAGE_MAX:]} == {"rejected"}
    assert unharmed(engine)


def test_another_tenant_s_directives_leave_a_context_as_it_is(engines: Fleet) -> None:
    engine = engines.engines[0]
    messages = context("mine", 60)
    engine.chat(messages, cache_salt="mine")
    engine.chat(messages, cache_salt="theirs")
    theirs = residency_scope("theirs")
    (outcome,) = directed(engine, Release(digest=tip(messages), scope=theirs))
    assert outcome.outcome == "applied"
    (nobody,) = directed(engine, Release(digest=tip(messages)))
    assert nobody.outcome == "rejected"
    retained = engine.client.get(KV_PATH).json()["retained"]
    assert residency_scope("mine") not in retained
    (mine,) = directed(
        engine, Retain(digest=tip(messages), scope=residency_scope("mine"), after=1.0, expires=60.0)
    )
    assert mine.outcome == "applied"
    assert engine.client.get(KV_PATH).json()["retained"].keys() - {""} == {residency_scope("mine")}


@pytest.mark.parametrize("header", ["", "(", "v=9", "x" * 8000, 'v=1, program="a"', "v=1, v=1"])
def test_bad_hints_change_no_answer(engines: Fleet, header: str) -> None:
    engine = engines.engines[0]
    plain = engine.chat(KNOWN, **TELLING)["choices"]
    assert engine.chat(KNOWN, headers={HINTS_HEADER: header}, **TELLING)["choices"] == plain
