import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import (
    Demote,
    Directive,
    DirectiveOutcome,
    Prefetch,
    Release,
    Retain,
    UnreadableHints,
    Warm,
    decode_directives,
    decode_outcomes,
    encode_directives,
)
from llmd_agents.hints.limits import ACTIONS_PER_MESSAGE_MAX, DIRECTIVES_BODY_MAX_BYTES

A, B = b"a" * 16, b"b" * 16

digests = st.binary(min_size=16, max_size=16)
scopes = st.none() | st.sampled_from(["s1", "s2"])
seconds = st.floats(0, 1e6)
directives: st.SearchStrategy[Directive] = st.one_of(
    st.builds(
        Retain,
        digest=digests,
        scope=scopes,
        after=seconds,
        sigma=st.floats(0, 5),
        expires=seconds,
        weight=st.floats(0, 1),
    ),
    st.builds(Release, digest=digests, scope=scopes, keep=st.none() | digests),
    st.builds(Prefetch, digest=digests, scope=scopes, tier=st.sampled_from(["host", "storage"])),
    st.builds(Prefetch, digest=digests, scope=scopes, peer=st.just("http://10.0.0.1:8000")),
    st.builds(Demote, digest=digests, scope=scopes, keep=st.none() | digests),
    st.builds(Warm, digest=digests, scope=scopes),
)


def envelope(*actions: Any, version: str = "0.1") -> bytes:
    return json.dumps({"protocol_version": version, "message_id": "m", "actions": list(actions)}).encode()


def action(kind: str = "warm", version: str = "1", **payload: Any) -> dict[str, Any]:
    return {"action_id": "x", "action_type": kind, "action_version": version, "payload": payload}


@given(st.lists(directives, max_size=5))
def test_round_trip(sent: list[Directive]) -> None:
    numbered = [(f"a{index}", directive) for index, directive in enumerate(sent)]
    message = decode_directives(encode_directives("m1", numbered))
    assert message.message_id == "m1"
    assert list(message.actions) == numbered


def test_the_envelope_is_the_shared_one() -> None:
    sent = json.loads(encode_directives("m1", [("a1", Release(digest=A, keep=B))]))
    assert sent == {
        "protocol_version": "0.1",
        "message_id": "m1",
        "actions": [
            {
                "action_id": "a1",
                "action_type": "release",
                "action_version": "1",
                "payload": {"digest": A.hex(), "keep": B.hex()},
            }
        ],
    }


@pytest.mark.parametrize(
    ("bad", "outcome", "reason"),
    [
        (action("explode", digest=A.hex()), "unsupported", "action type 'explode' is not known"),
        (action(version="7", digest=A.hex()), "unsupported", "version '7' is not known"),
        (action(digest="zz"), "rejected", "digest"),
        (action(), "rejected", "digest"),
        (action("prefetch", digest=A.hex()), "rejected", "give either tier or peer"),
        (action("prefetch", digest=A.hex(), tier="host", peer="http://x"), "rejected", "give either"),
        (action("retain", digest=A.hex(), after=-1, expires=3), "rejected", "after"),
        (action("retain", digest=A.hex(), after=1, expires=3, weight=2), "rejected", "weight"),
        ({"action_id": "x"}, "rejected", "action_type"),
        ("text", "rejected", ""),
        (None, "rejected", ""),
    ],
)
def test_a_bad_action_is_answered_alone(bad: Any, outcome: str, reason: str) -> None:
    message = decode_directives(envelope(bad, action(digest=A.hex())))
    first, second = message.actions
    assert isinstance(first, DirectiveOutcome)
    assert first.outcome == outcome
    assert reason in (first.reason or "")
    assert second == ("x", Warm(digest=A))


def test_too_many_actions_are_refused_one_by_one() -> None:
    message = decode_directives(envelope(*[action(digest=A.hex())] * 10_000))
    assert len(message.actions) == 10_000
    refused = [item for item in message.actions if isinstance(item, DirectiveOutcome)]
    assert len(refused) == 10_000 - ACTIONS_PER_MESSAGE_MAX
    assert refused[0].outcome == "rejected"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", envelope(version="9"), b'{"protocol_version": "0.1"}', b"x" * 10],
)
def test_what_is_no_message_is_refused_whole(body: bytes) -> None:
    with pytest.raises(UnreadableHints):
        decode_directives(body)


def test_a_message_that_is_too_long_is_refused() -> None:
    with pytest.raises(UnreadableHints, match="more than"):
        decode_directives(b" " * (DIRECTIVES_BODY_MAX_BYTES + 1))


def test_outcomes() -> None:
    read = decode_outcomes(b'{"message_id": "m", "outcomes": [{"action_id": "a", "outcome": "applied"}]}')
    assert read.outcomes == (DirectiveOutcome(action_id="a", outcome="applied"),)
    for garbage in (b"", b"<html>", b'{"outcomes": [{"action_id": "a", "outcome": "perhaps"}]}'):
        with pytest.raises(UnreadableHints):
            decode_outcomes(garbage)
