"""Whatever is declared, sent or answered: it is understood, or refused with a reason."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from llmd_agents.hints import (
    Ack,
    BranchEnded,
    Event,
    Forecast,
    ForkDeclared,
    ForkPosition,
    Hints,
    HintsTooLong,
    Joined,
    LoopPosition,
    Next,
    Program,
    ProgramFinished,
    ProgramStarted,
    Rejection,
    Segment,
    SegmentType,
    Step,
    Superseded,
    ToolFinished,
    ToolStarted,
    UnreadableHints,
    decode_ack,
    decode_events,
    decode_hints,
    encode_ack,
    encode_events,
    encode_hints,
)
from llmd_agents.hints.errors import PROBLEM_MAX_CHARS
from llmd_agents.hints.header_as_written import read_as_written
from llmd_agents.hints.header_reader import read_members
from llmd_agents.hints.limits import ACK_MAX_BYTES, EVENTS_BODY_MAX_BYTES, HEADER_MAX_BYTES
from llmd_agents.hints.structured_field_parser import parse_dictionary
from tests.strategies import hints, json_values

WIDE = 1 << 20
HUGE = "x" * 10_000_000

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(st.characters(max_codepoint=0x7F), max_size=80)
    | st.binary()
    | st.binary(min_size=16, max_size=16)
    | st.sampled_from(["all", "any", "tool", "turn", "segments", "ü", "a\nb", "\ud800", 1e400, -1, 10**30]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def refused(model: type[BaseModel], field: str, value: Any) -> bool:
    """Returns whether a field is refused; where it is, the error must name it."""
    refusal = refusal_of(model, **{**DECLARED[model], field: value})
    if refusal is None:
        return False
    assert isinstance(refusal, ValidationError)
    assert {problem["loc"][0] for problem in refusal.errors()} == {field}
    assert len(str(refusal)) < 5_000
    return True


def refusal_of(read: Callable[..., Any], *args: Any, **kwargs: Any) -> ValueError | None:
    """Returns why something cannot be read; only the contract's own errors are reasons."""
    try:
        read(*args, **kwargs)
    except (ValidationError, UnreadableHints) as refusal:
        return refusal
    return None


# --- what an application declares

STEP = Step(id="s")
TURN = SegmentType.CONVERSATION_TURN
DECLARED: dict[type[BaseModel], dict[str, Any]] = {
    Program: {"id": "p"},
    Step: {"id": "s"},
    ForkPosition: {"id": "f", "index": 0, "width": 100_000},
    LoopPosition: {"id": "l", "iteration": 0},
    Segment: {"type": TURN, "digest": bytes(16), "size": 1},
    Forecast: {"next": Next.TOOL},
    Hints: {"program": Program(id="p"), "step": STEP},
    ProgramStarted: {"program": "p", "at": 1.0, "declared": Program(id="p")},
    ProgramFinished: {"program": "p", "at": 1.0},
    ToolStarted: {"program": "p", "at": 1.0, "call": "c", "tool": "t"},
    ToolFinished: {"program": "p", "at": 1.0, "call": "c", "tool": "t"},
    ForkDeclared: {"program": "p", "at": 1.0, "fork": "f", "width": 2},
    BranchEnded: {"program": "p", "at": 1.0, "branch": "b"},
    Superseded: {"program": "p", "at": 1.0, "digest": bytes(16)},
    Joined: {"program": "p", "at": 1.0, "fork": "f"},
}
IN_HINTS: dict[type[BaseModel], Callable[[Any], Hints]] = {
    Program: lambda one: Hints(program=one, step=STEP),
    Step: lambda one: Hints(program=Program(id="p"), step=one),
    ForkPosition: lambda one: Hints(program=Program(id="p"), step=Step(id="s", fork=one)),
    LoopPosition: lambda one: Hints(program=Program(id="p"), step=Step(id="s", loop=one)),
    Segment: lambda one: Hints(program=Program(id="p"), step=STEP, segments=(one,)),
    Forecast: lambda one: Hints(program=Program(id="p"), step=STEP, forecast=one),
    Hints: lambda one: one,
}
FIELDS = [(model, field) for model in DECLARED for field in model.model_fields if field != "type"]
FIELDS.append((Segment, "type"))


@given(st.sampled_from(FIELDS), anything)
@example((Program, "id"), "p\n")
@example((Program, "name"), "\u2028")
@example((Program, "deadline"), -0.0)
@example((Forecast, "after"), 5e-324)
@example((Forecast, "sigma"), 9.9999)
@example((ForkPosition, "index"), 99_999)
@example((Step, "join"), 10**15)
def test_any_field_travels_or_is_refused(at: tuple[type[BaseModel], str], value: Any) -> None:
    model, field = at
    if refused(model, field, value):
        return
    one = model(**{**DECLARED[model], field: value})
    if model in IN_HINTS:
        header = encode_hints(IN_HINTS[model](one), limit=WIDE)
        decoded = decode_hints(header, limit=WIDE)
        assert header.isascii()
        assert header.isprintable()
        assert not decoded.rejected
        assert not decoded.ignored
        assert decoded.hints is not None
        # Once more, since times are rounded on their way.
        assert encode_hints(decoded.hints, limit=WIDE) == header
    else:
        assert decode_events(encode_events([one])) == [one]  # type: ignore[list-item]


@pytest.mark.parametrize(("model", "field"), FIELDS, ids=lambda one: getattr(one, "__name__", one))
@pytest.mark.parametrize(
    "value",
    [HUGE, HUGE.encode(), nested(5_000), 10**5_000, ["x"] * 100_000],
    ids=["text", "bytes", "nested", "integer", "list"],
)
def test_what_is_huge_is_refused(model: type[BaseModel], field: str, value: Any) -> None:
    assert refused(model, field, value)


# --- a header that arrives


def read(value: bytes | str) -> None:
    """Reads a header as a server does; it must come to hints or to a reason."""
    if (refusal := refusal_of(decode_hints, value)) is not None:
        assert str(refusal)
        return
    decoded = decode_hints(value)
    assert decoded.hints is not None or {item.hint for item in decoded.rejected} & {"program", "step"}
    assert all(item.reason for item in decoded.rejected)
    assert len({item.hint for item in decoded.rejected}) == len(decoded.rejected) <= 10
    ack = encode_ack(Ack(rejected=decoded.rejected, ignored=decoded.ignored))
    assert len(ack) <= ACK_MAX_BYTES
    decode_ack(ack)


@st.composite
def mutated(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with a few stretches changed, left out, put in or doubled."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        at, until = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        put = draw(
            st.text(max_size=3)
            | st.sampled_from(["", text[at:until] * 2, '"', ";", ", ", "=", "(", ")", "0"])
        )
        text = text[:at] + put + text[until:]
    return text


def written(declared: Hints) -> str:
    try:
        return encode_hints(declared)
    except HintsTooLong:
        return "v=1"


@given(mutated(hints.map(written)))
def test_any_change_to_a_header_is_read_or_refused(header: str) -> None:
    read(header)
    read(header.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=HEADER_MAX_BYTES + 10))
def test_any_bytes_are_read_or_refused(header: bytes) -> None:
    read(header)


MEMBER_NAMES = ["v", "program", "step", "parents", "fork", "loop", "extends", "segments", "next", "cut", "z"]
items = st.sampled_from(
    ['"a"', '"f 1"', "1", "-1", "1.5", "all", "tool", "turn", "?1", "@1", ":AAAA:",
     ":AAAAAAAAAAAAAAAAAAAAAA==:", '%"%c3%bc"', '"\\""', '""', "999999999999999"]
)  # fmt: skip
PARAM_NAMES = ["name", "priority", "index", "width", "iteration", "after", "join", "t", "b", "n", "life",
               "scope", "merged", "branch", "z"]  # fmt: skip
with_params = st.builds(
    lambda item, params: item + "".join(f";{name}={value}" for name, value in params),
    items,
    st.lists(st.tuples(st.sampled_from(PARAM_NAMES), items), max_size=3),
)
values = with_params | st.lists(with_params, max_size=3).map(lambda listed: f"({' '.join(listed)})")
by_the_grammar = st.dictionaries(st.sampled_from(MEMBER_NAMES), values).map(
    lambda members: ", ".join(
        f"{name}={value}" for name, value in ({"program": '"p"', "step": '"s"'} | members).items()
    )
)


@given(by_the_grammar)
def test_any_values_in_any_member_are_read_or_refused(header: str) -> None:
    read(header)


@given(hints.map(written) | mutated(hints.map(written)))
def test_what_is_read_fast_is_read_the_same(header: str) -> None:
    fast = read_as_written(header)
    if fast is None:
        return
    slow = read_members(parse_dictionary(header))
    assert slow.hints == fast
    assert slow.hints.model_dump(exclude_unset=True) == fast.model_dump(exclude_unset=True)
    assert not slow.rejected
    assert not slow.ignored


def test_a_typical_header_is_read_fast() -> None:
    header = (
        'v=1, program="p";name="essays";priority=70;deadline=17.5, step="s";branch="b";kind="act";model="m";'
        'agent="a", parents=("s1" "s2");join=2, fork="f";index=0;width=1, loop="l";iteration=1;limit=3, '
        "extends=:AQEBAQEBAQEBAQEBAQEBAQ==:, segments=(:AgICAgICAgICAgICAgICAg==:;t=turn;b=812;n=7;life=step;"
        "scope=tenant;merged=2 :AwMDAwMDAwMDAwMDAwMDAw==:;t=document;b=90;life=90.5), "
        'next=tool;after=5.0;sigma=0.5;width=3;agent="w";tokens=4, cut=("segments" "next")'
    )
    fast = read_as_written(header)
    assert fast is not None
    assert encode_hints(fast) == header
    assert read_members(parse_dictionary(header)).hints == fast


@pytest.mark.parametrize(
    "header",
    [HUGE, HUGE.encode(), "é" * 2048 * 1000, "(" * 10_000_000],
    ids=["text", "bytes", "not ASCII", "open"],
)
def test_a_header_that_is_too_long_is_refused_unread(header: str | bytes) -> None:
    with pytest.raises(UnreadableHints, match="more than 2048"):
        decode_hints(header)


# --- an answer that arrives


def read_ack(value: bytes | str) -> None:
    if (refusal := refusal_of(decode_ack, value)) is not None:
        assert str(refusal)
        return
    ack = decode_ack(value)
    names = (
        *ack.accepted,
        *ack.ignored,
        *(item.hint + item.reason for item in (*ack.clipped, *ack.rejected)),
    )
    assert sum(map(len, names)) <= ACK_MAX_BYTES
    assert len(encode_ack(ack)) <= ACK_MAX_BYTES


any_rejections = st.lists(st.builds(Rejection, st.text(), st.text() | st.just(HUGE)), max_size=30).map(tuple)
acks = st.builds(
    Ack,
    accepted=st.lists(st.text() | st.just("a" * 500), max_size=30).map(tuple),
    clipped=any_rejections,
    rejected=any_rejections,
    ignored=st.lists(st.text(), max_size=200).map(tuple),
    resync=st.booleans(),
)


@given(acks)
def test_any_ack_can_be_sent_and_read(ack: Ack) -> None:
    header = encode_ack(ack)
    assert header.isascii()
    assert header.isprintable()
    assert len(header) <= ACK_MAX_BYTES
    assert decode_ack(header).resync == ack.resync


@given(mutated(acks.map(encode_ack)))
@example("v=1, accepted=5")
@example('v=1, accepted="abc"')
@example("v=1, rejected=(1;reason=:AA==: ?1;reason=@0 x;reason)")
@example("v=2, accepted=()")
@example("v=?1")
@example("v=(1)")
@example("v=1.0, resync=?0")
@example("resync=yes")
def test_a_hostile_ack_is_read_or_refused(header: str) -> None:
    read_ack(header)
    read_ack(header.encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=ACK_MAX_BYTES + 10))
def test_any_bytes_for_an_ack_are_read_or_refused(header: bytes) -> None:
    read_ack(header)


@pytest.mark.parametrize(
    "header", [HUGE, HUGE.encode(), "v=1, resync" + " " * 2048], ids=["text", "bytes", "spaces"]
)
def test_an_ack_that_is_too_long_is_refused_unread(header: str | bytes) -> None:
    with pytest.raises(UnreadableHints, match="more than 2048"):
        decode_ack(header)


# --- events that arrive

ONE = '{"type": "joined", "program": "p", "at": 1, "fork": "f"}'


def read_events(body: bytes) -> list[Event | Rejection] | None:
    if (refusal := refusal_of(decode_events, body)) is not None:
        assert 0 < len(str(refusal)) <= 2 * PROBLEM_MAX_CHARS
        return None
    events = decode_events(body)
    for event in events:
        if isinstance(event, Rejection):
            assert 0 < len(event.reason) <= 2 * PROBLEM_MAX_CHARS
    return events


@given(st.binary(max_size=500))
def test_any_bytes_for_events_are_read_or_refused(body: bytes) -> None:
    read_events(body)


@given(mutated(st.just(f'{{"version": 1, "events": [{ONE}, {ONE}]}}')))
def test_any_change_to_a_batch_is_read_or_refused(body: str) -> None:
    read_events(body.encode("utf-8", "surrogatepass"))


@given(json_values, st.sampled_from(["type", "program", "at", "fork", "branch", "z"]), json_values)
def test_any_json_for_an_event_is_read_or_refused(event: Any, field: str, value: Any) -> None:
    changed = {**json.loads(ONE), field: value}
    events = read_events(json.dumps({"version": 1, "events": [changed]}).encode())
    assert events is not None
    assert len(events) == 1
    read_events(json.dumps({"version": 1, "events": [event]}).encode())
    read_events(json.dumps({"version": event, "events": [changed]}).encode())


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("[" * 400_000, False),
        ('{"version": 1, "events": [' + "[" * 100_000 + "]" * 100_000 + "]}", False),
        ('{"version": 1, "events": [{"type": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}]}", False),
        ('{"version": ' + "1" * 500_000 + ', "events": []}', False),
        ('{"version": 1e999, "events": []}', False),
        ('{"version": 1, "events": [{"type": "' + "x" * 900_000 + '"}]}', True),
        ('{"version": 1, "events": [' + ONE.replace("1", "1e400") + "]}", True),
        ('{"version": 1, "events": [' + ONE.replace("1", "NaN") + "]}", True),
        ('{"version": 1, "events": [' + ONE.replace("1", "-1") + "]}", True),
        ('{"version": 1, "events": [' + ONE.replace('"f"', '"f\\u0000"') + "]}", True),
        ('{"version": 1, "events": [{}], "events": [{}, {}]}', True),
        ('{"version": 1, "events": [' + ",".join(["7"] * 300_000) + "]}", False),
        ("\ufeff{}", False),
    ],
    ids=range(13),
)
def test_hostile_batches(body: str, read: bool) -> None:
    assert len(body) <= EVENTS_BODY_MAX_BYTES
    events = read_events(body.encode())
    assert (events is not None) == read
    assert all(isinstance(event, Rejection) for event in events or ())


@pytest.mark.parametrize("body", [b"\xff\xfe{}", b'{"version": 1, "events": [{"type": "\xed\xa0\x80"}]}'])
def test_what_is_not_unicode_is_no_batch(body: bytes) -> None:
    assert read_events(body) is None
