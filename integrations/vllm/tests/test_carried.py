"""What the middleware puts into a request is what connector and scheduler read; nothing breaks on the way."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import ForkPosition, Hints, Program, Step, chain, encode_hints
from llmd_agents.hints.dialects import apply_body
from llmd_agents_vllm.carried import FIRST_LINKS, KEY, LINKS_MAX, Carried, fold, read

HINTS = Hints(
    program=Program(id="essay-7f3a", priority=70),
    step=Step(id="s12", branch="b3", fork=ForkPosition(id="f1", index=3, width=8)),
)
HEADER = encode_hints(HINTS).encode()
BODY = b'{"model":"m", "messages":[{"role":"user","content":"h\xc3\xa9llo"},{"role":"user","content":"b"}]}'


def carried_by(body: bytes) -> Carried | None:
    return read(json.loads(body).get("kv_transfer_params"))


def expected_links(body: bytes) -> tuple[tuple[bytes, int], ...]:
    links, size = [], 0
    for link in chain(json.loads(body)):
        size += link.size
        links.append((link.digest, size))
    return tuple(links)


def test_chain_and_header_arrive() -> None:
    assert carried_by(fold(BODY, HEADER)) == Carried(expected_links(BODY), HINTS)


def test_the_rest_of_the_body_stays_to_the_byte() -> None:
    folded = fold(b"  " + BODY + b"\n ", HEADER)
    assert folded.startswith(b"  " + BODY[:-1] + b',"kv_transfer_params":')
    assert folded.endswith(b"}\n ")


def test_a_completion_has_no_chain() -> None:
    assert carried_by(fold(b'{"model":"m","prompt":"a"}', HEADER)) == Carried((), HINTS)
    assert fold(b'{"model":"m","prompt":"a"}', None) == b'{"model":"m","prompt":"a"}'


def test_the_chain_travels_without_a_header() -> None:
    assert carried_by(fold(BODY, None)) == Carried(expected_links(BODY), None)


def test_a_body_may_hold_the_header_where_proxies_drop_it() -> None:
    body = json.dumps(apply_body(["vllm"], HINTS, json.loads(BODY))).encode()
    assert carried_by(fold(body, None)) == Carried(expected_links(BODY), HINTS)
    assert carried_by(fold(body, b'v=1, program="p", step="s"')) == Carried(
        expected_links(BODY), Hints(program=Program(id="p"), step=Step(id="s"))
    )


@pytest.mark.parametrize("value", [7, None, [], {}, "\u00e9", "\ud800", "v=2", "x" * 3000], ids=repr)
def test_what_else_a_body_may_hold_there(value: Any) -> None:
    body = json.dumps({**json.loads(BODY), "vllm_xargs": {"llmd_agents": value}}).encode()
    assert carried_by(fold(body, None)) == Carried(expected_links(BODY), None)


@pytest.mark.parametrize(
    "header", [b"", b"\xff", b"no, dictionary=(", b"v=2", b'v=1, step="s"', b"x" * 3000], ids=repr
)
def test_an_unreadable_header_is_dropped_and_the_chain_counts(header: bytes) -> None:
    folded = fold(BODY, header)
    assert carried_by(folded) == Carried(expected_links(BODY), None)
    assert "header" not in json.loads(folded)["kv_transfer_params"][KEY]


def test_the_clients_own_parameters_stay_and_our_key_overrides() -> None:
    own = {"do_remote_prefill": True, "remote": {"host": "h", "ports": [1, 2.5, None]}, KEY: {"v": 1}}
    body = json.dumps({**json.loads(BODY), "kv_transfer_params": own}).encode()
    params = json.loads(fold(body, HEADER))["kv_transfer_params"]
    assert {key: value for key, value in params.items() if key != KEY} == {
        key: value for key, value in own.items() if key != KEY
    }
    assert read(params) == Carried(expected_links(BODY), HINTS)


OURS = {KEY: {"v": 1, "header": HEADER.decode(), "scope": "another tenant's"}}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"prompt": "a", "kv_transfer_params": {**OURS, "mine": 1}}).encode(),
        json.dumps({"prompt": "a", "kv_transfer_params": {**OURS, "mine": 1}}).encode("utf-16"),
        b'{"prompt":"a","prompt":"b",' + json.dumps({"kv_transfer_params": {**OURS, "mine": 1}}).encode()[1:],
        json.dumps({"prompt": "a", "kv_transfer_params": OURS | {"mine": 1}})
        .replace(KEY, "\\u006clmd_agents")
        .encode(),
    ],
    ids=["plain", "another encoding", "a key twice", "escaped"],
)
def test_a_client_cannot_speak_for_the_middleware(body: bytes) -> None:
    assert json.loads(fold(body, None))["kv_transfer_params"] == {"mine": 1}


def test_null_parameters_count_as_none() -> None:
    body = BODY[:-1] + b',"kv_transfer_params":null}'
    assert carried_by(fold(body, HEADER)) == Carried(expected_links(BODY), HINTS)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"{}"',
        b"{}",
        b'{"a":1} {"b":2}',
        b'{"messages":[],"messages":[]}',
        b'{"messages":[{"role":"user","role":"system","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"\xff"}]}',
        b'{"messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        BODY.decode().encode("utf-16"),
        BODY.decode().encode("utf-8-sig"),
        BODY[:-1] + b',"kv_transfer_params":[]}',
        BODY[:-1] + b',"kv_transfer_params":"x"}',
        b"\0" + BODY,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_plain_object_or_has_nothing_to_add_passes_unchanged(body: bytes) -> None:
    assert fold(body, None) is body


@pytest.mark.parametrize("messages", ["x", {"a": 1}, 1, None, ["x"], [[]]])
def test_odd_messages_are_the_engines_to_refuse(messages: Any) -> None:
    body = json.dumps({"messages": messages}).encode()
    assert fold(body, None) == body
    assert carried_by(fold(body, HEADER)) == Carried((), HINTS)


def test_lone_surrogates_and_nan_of_python_clients_pass() -> None:
    body = (
        b'{"messages":[{"role":"user","content":"\\ud800"}],"temperature":NaN,"kv_transfer_params":{"x":NaN}}'
    )
    assert (carried := carried_by(fold(body, None))) is not None
    assert len(carried.links) == 2


def test_of_a_long_chain_the_first_and_the_newest_links_are_carried() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": str(i)} for i in range(2000)]}).encode()
    links = expected_links(body)
    assert len(links) == 2001
    carried = carried_by(fold(body, None))
    assert carried == Carried(links[:FIRST_LINKS] + links[FIRST_LINKS - LINKS_MAX :], None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200), st.none() | st.binary(max_size=100))
def test_no_bytes_fail(body: bytes, header: bytes | None) -> None:
    fold(body, header)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.sampled_from([None, HEADER]))
def test_what_a_client_sent_reads_the_same_afterwards(members: dict[str, Any], header: bytes | None) -> None:
    body = json.dumps(members).encode()
    after = json.loads(fold(body, header))
    before = json.loads(body)
    if header is not None and isinstance(before.get("kv_transfer_params", {}), dict | None):
        assert read(after.pop("kv_transfer_params")) is not None
        before.pop("kv_transfer_params", None)
    assert repr(after) == repr(before)


DIGEST = "00" * 16


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        [],
        {},
        {"v": 1},
        {"v": True, "chain": [[DIGEST, 1]]},
        {"v": 2, "chain": [[DIGEST, 1]]},
        {"v": 1, "chain": "ab"},
        {"v": 1, "chain": {}},
        {"v": 1, "chain": [DIGEST]},
        {"v": 1, "chain": [[DIGEST, -1]]},
        {"v": 1, "chain": [[DIGEST, True]]},
        {"v": 1, "chain": [[DIGEST, 1.5]]},
        {"v": 1, "chain": [[DIGEST, 10**400]]},
        {"v": 1, "chain": [[DIGEST, 1, 2]]},
        {"v": 1, "chain": [["zz" * 16, 1]]},
        {"v": 1, "chain": [["0 " * 16, 1]]},
        {"v": 1, "chain": [["00" * 15, 1]]},
        {"v": 1, "chain": [[DIGEST, 2], [DIGEST, 1]]},
        {"v": 1, "chain": [[DIGEST, 2], [DIGEST, 2]]},
        {"v": 1, "chain": [[DIGEST, i] for i in range(LINKS_MAX + 1)]},
        {"v": 1, "header": 3},
        {"v": 1, "header": "x" * 100_000},
        {"v": 1, "header": "\ud800"},
    ],
    ids=lambda value: repr(value)[:50],
)
def test_nothing_usable_is_none(value: Any) -> None:
    assert read({KEY: value}) is None


@pytest.mark.parametrize("params", [None, {}, [], "x", 3, {KEY: 1}])
def test_parameters_without_ours_are_none(params: Any) -> None:
    assert read(params) is None


def test_a_bad_chain_does_not_cost_the_header() -> None:
    assert read({KEY: {"v": 1, "chain": [1], "header": HEADER.decode()}}) == Carried((), HINTS)


@given(JSON)
def test_read_never_raises(value: Any) -> None:
    read(value)
    read({KEY: value})
    read({KEY: {"v": 1, "chain": value, "header": value}})
