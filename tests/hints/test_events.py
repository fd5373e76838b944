import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import (
    BranchEnded,
    Event,
    ForkDeclared,
    ForkPosition,
    Joined,
    Program,
    ProgramFinished,
    ProgramStarted,
    Rejection,
    Superseded,
    ToolFinished,
    ToolStarted,
    UnreadableHints,
    decode_events,
    encode_events,
)

VECTORS = Path(__file__).parents[1] / "vectors"

ONE_OF_EACH: list[Event] = [
    ProgramStarted(program="p", at=1.5, declared=Program(id="p", name="essays", priority=70)),
    ToolStarted(program="p", at=2.0, call="t1", tool="search", expected=5.0, result_lifetime=60.0),
    ToolFinished(program="p", at=3.0, call="t1", tool="search"),
    ForkDeclared(program="p", at=4.0, fork="f1", width=8, name="grade", parents=("s1",)),
    ForkDeclared(
        program="p",
        at=4.5,
        branch="f1.0",
        fork="f2",
        width=2,
        position=ForkPosition(id="f1", index=0, width=8),
    ),
    BranchEnded(program="p", at=5.0, branch="f1.0", outcome="cancelled"),
    Joined(program="p", at=6.0, fork="f1"),
    Superseded(program="p", at=7.0, digest=bytes(range(16))),
    ProgramFinished(program="p", at=8.0, outcome="error"),
]


def test_golden_vector() -> None:
    body = (VECTORS / "events.json").read_bytes()
    assert decode_events(body) == ONE_OF_EACH
    assert json.loads(encode_events(ONE_OF_EACH)) == json.loads(body)


def test_a_bad_event_is_rejected_alone() -> None:
    good = json.loads(encode_events(ONE_OF_EACH))["events"]
    events = [{"type": "party"}, *good, {"type": "joined", "program": "p"}]
    body = json.dumps({"version": 1, "events": events}).encode()
    first, *accepted, last = decode_events(body)
    assert accepted == ONE_OF_EACH
    assert isinstance(first, Rejection)
    assert isinstance(last, Rejection)
    assert last.reason == "joined.at: Field required"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"version": 1}', "events: Field required"),
        (b'{"version": 2, "events": []}', "version 2 is not known"),
        (b'{"version": 1, "events": [7]}', "events.0"),
        (b'{"version": 1, "events": [' + b"{}," * 1000 + b"{}]}", "1000 items"),
        (b" " * (1 << 20) + b"{}", "bytes, more than"),
    ],
)
def test_batches_refused_as_a_whole(body: bytes, message: str) -> None:
    with pytest.raises(UnreadableHints, match=message):
        decode_events(body)


@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        decode_events(body)
    except UnreadableHints:
        return


def test_fields_of_a_later_version_are_kept() -> None:
    body = b'{"version": 1, "events": [{"type": "joined", "program": "p", "at": 1, "fork": "f", "mood": 3}]}'
    (event,) = decode_events(body)
    assert isinstance(event, Joined)
    assert event.model_extra == {"mood": 3}
