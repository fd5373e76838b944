import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmd_agents.hints import (
    Ack,
    Hints,
    HintsTooLong,
    Program,
    Rejection,
    Segment,
    SegmentType,
    Step,
    UnreadableHints,
    chain,
    decode_ack,
    decode_hints,
    encode_ack,
    encode_hints,
    segments_of,
)
from llmd_agents.hints.limits import HEADER_MAX_BYTES
from tests.strategies import hints, ids, names

VECTORS = Path(__file__).parents[1] / "vectors"


def segment(index: int, kind: SegmentType = SegmentType.CONVERSATION_TURN, size: int = 1000) -> Segment:
    return Segment(type=kind, digest=index.to_bytes(16, "big"), size=size)


def with_segments(*segments: Segment) -> Hints:
    return Hints(program=Program(id="p"), step=Step(id="s"), segments=segments)


@pytest.mark.parametrize(
    "vector", json.loads((VECTORS / "headers.json").read_text()), ids=lambda vector: str(vector["name"])
)
def test_golden_vectors(vector: dict[str, Any]) -> None:
    declared = Hints.model_validate_json(json.dumps(vector["hints"]))
    assert encode_hints(declared) == vector["header"]
    assert decode_hints(vector["header"]).hints == declared


@given(hints)
def test_round_trip(declared: Hints) -> None:
    header = encode_hints(declared, limit=1 << 20)
    assert header.isascii()
    decoded = decode_hints(header, limit=1 << 20)
    assert decoded.hints == declared.model_copy(
        update={"segments": tuple(explicit(one) for one in declared.segments)}
    )
    assert not decoded.rejected
    assert not decoded.ignored


def explicit(declared: Segment) -> Segment:
    """A default that was stated is not sent."""
    changes: dict[str, Any] = {}
    if declared.lifetime == Segment(type=declared.type, digest=b"x" * 16, size=0).effective_lifetime:
        changes["lifetime"] = None
    if declared.scope == Segment(type=declared.type, digest=b"x" * 16, size=0).effective_scope:
        changes["scope"] = None
    return declared.model_copy(update=changes)


@given(hints)
def test_never_exceeds_the_limit(declared: Hints) -> None:
    try:
        header = encode_hints(declared)
    except HintsTooLong:
        # Only long names can do this: they are not shortened, because a shortened name is another name.
        assert any(len(text) > 64 for text in (declared.program.name or "", declared.step.kind or "",
                   declared.step.agent or "", declared.step.model or ""))  # fmt: skip
        return
    assert len(header) <= HEADER_MAX_BYTES
    decoded = decode_hints(header)
    assert decoded.hints is not None
    assert decoded.hints.program == declared.program
    assert decoded.hints.digest == declared.digest
    assert sum(s.size for s in decoded.hints.segments) == sum(s.size for s in declared.segments)


def test_truncation_merges_the_oldest_turns_and_keeps_shared_boundaries() -> None:
    declared = with_segments(
        segment(0, SegmentType.TOOL_DEFINITION),
        segment(1, SegmentType.SYSTEM_PROMPT),
        *(segment(index) for index in range(2, 402)),
    )
    header = encode_hints(declared)
    assert HEADER_MAX_BYTES - 100 < len(header) <= HEADER_MAX_BYTES
    kept = decode_hints(header).hints
    assert kept is not None
    assert kept.cut == ("segments",)
    assert [s.type for s in kept.segments[:3]] == ["tool_definition", "system_prompt", "conversation_turn"]
    assert [s.merged for s in kept.segments[:2]] == [1, 1]
    assert all(s.merged == 1 for s in kept.segments[3:])
    assert kept.segments[-1] == declared.segments[-1]
    assert sum(s.merged for s in kept.segments) == 402
    assert sum(s.size for s in kept.segments) == 402_000


def test_a_conversation_of_any_length_can_be_read_back() -> None:
    messages = [{"role": "user", "content": str(number)} for number in range(10_000)]
    segments = segments_of(chain({"model": "m", "messages": messages}))
    decoded = decode_hints(encode_hints(with_segments(*segments)))
    assert not decoded.rejected
    assert decoded.hints is not None
    assert decoded.hints.digest == segments[-1].digest


def test_what_remains_too_long_after_truncation_is_refused() -> None:
    step = Step(id="s", kind="é" * 128, agent="é" * 128, model="é" * 128)
    with pytest.raises(HintsTooLong):
        encode_hints(Hints(program=Program(id="p", name="é" * 128), step=step))


@given(st.binary(max_size=3000))
@example(b"\x00")
@example(b'program="a", step="s", segments=(1 2 3)')
@example(b"v=1;;;")
@example(b"program=@-999999999999999, step=1.5")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decoded = decode_hints(data)
    except UnreadableHints:
        return
    assert decoded.hints is None or encode_hints(decoded.hints, limit=1 << 20)


@given(st.text(max_size=200).map(lambda text: f'program="p", step="s", {text}'))
def test_any_text_behind_good_members(text: str) -> None:
    try:
        decode_hints(text)
    except UnreadableHints:
        return


@pytest.mark.parametrize(
    ("header", "rejected"),
    [
        ('program="p", step="s", fork="f";index=3;width=3', "fork"),
        ('program="p", step="s", fork="f"', "fork"),
        ('program="p";priority=101, step="s"', "program"),
        ('program="p";priority="high", step="s"', "program"),
        ('program="p q", step="s"', "program"),
        ('step="s"', "program"),
        ('program="p"', "step"),
        ('program="p", step="s", segments=5', "segments"),
        ('program="p", step="s", segments=(:AAAA:;t=turn;b=1)', "segments"),
        ('program="p", step="s", segments=(:AAAAAAAAAAAAAAAAAAAAAA==:;t=turn;b=1;life="step")', "segments"),
        ('program="p", step="s", extends=7', "extends"),
        ('program="p", step="s", next=lunch', "next"),
        ('program="p", step="s", next=tool;after=-1', "next"),
        ('program="p", step="s", parents=("a b")', "parents"),
        ('program="p", step="s", loop="l";iteration=1.5', "loop"),
        ('program="p", step="s", cut=(1)', "cut"),
        ('program="p", step="s", cut=("everything")', "cut"),
        ('program="p", step="s", segments=(:AAAAAAAAAAAAAAAAAAAAAA==:;t="turn";b=1)', "segments"),
    ],
)
def test_a_bad_member_is_rejected_alone(header: str, rejected: str) -> None:
    decoded = decode_hints(header)
    assert rejected in [item.hint for item in decoded.rejected]
    if rejected not in ("program", "step"):
        assert decoded.hints is not None
        assert decoded.hints.program.id == "p"


def test_half_a_context_is_no_context() -> None:
    decoded = decode_hints('program="p", step="s", extends=:AAAAAAAAAAAAAAAAAAAAAA==:, segments=5')
    assert decoded.hints is not None
    assert decoded.hints.digest is None


def test_tokens_of_a_later_version_cost_nothing_else() -> None:
    digest = ":AAAAAAAAAAAAAAAAAAAAAA==:"
    first, second = f"{digest};t=image;b=1;life=weekend;scope=world", f"{digest};t=system;b=2"
    header = f'program="p", step="s", segments=({first} {second})'
    decoded = decode_hints(header)
    assert decoded.hints is not None
    assert [s.type for s in decoded.hints.segments] == ["conversation_turn", "system_prompt"]
    assert decoded.ignored == ("segments;t=image", "segments;life=weekend", "segments;scope=world")


def test_a_hostile_header_cannot_make_a_long_ack() -> None:
    many = " ".join('"' + "x" * 3 + str(number) + '"' for number in range(230))
    decoded = decode_hints(f'program="p", step="s", cut=({many})')
    unknown = decode_hints(", ".join(f"k{number}" for number in range(300)))
    for one in (decoded, unknown):
        ack = Ack(accepted=("program",), rejected=one.rejected * 50, ignored=one.ignored)
        assert len(encode_ack(ack)) <= 2048
        assert decode_ack(encode_ack(ack)).rejected


def test_unknown_members_and_parameters_are_named() -> None:
    decoded = decode_hints('program="p";colour="red", step="s", mood=good')
    assert decoded.hints is not None
    assert decoded.ignored == ("mood", "program;colour")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("v=2, program=x", "version 2 is not known"),
        ("v=?1", "version True is not known"),
        ("((((", "not a structured field"),
        ("x" * 2049, "2049 bytes, more than 2048"),
    ],
)
def test_headers_refused_as_a_whole(header: str, message: str) -> None:
    with pytest.raises(UnreadableHints, match=message):
        decode_hints(header)


@given(ids, names)
def test_ids_and_names_within_limits_are_accepted(identifier: str, name: str) -> None:
    program = Program(id=identifier, name=name)
    assert decode_hints(encode_hints(Hints(program=program, step=Step(id="s")))).hints is not None


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "é", "-a", "x" * 65, "a" * 10_000_000])
def test_bad_ids_are_refused_at_construction(bad: str) -> None:
    with pytest.raises(ValidationError, match="id"):
        Program(id=bad)


@pytest.mark.parametrize("bad", ["", "a\nb", "\ud800", "x" * 129])
def test_bad_names_are_refused_at_construction(bad: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        Program(id="p", name=bad)


rejections = st.builds(Rejection, names, names)


@given(st.lists(rejections, max_size=3), st.booleans())
def test_any_ack_is_ascii_and_readable(rejected: list[Rejection], resync: bool) -> None:
    hints_named = tuple(Rejection("fork", item.reason) for item in rejected)
    header = encode_ack(Ack(accepted=("program",), rejected=hints_named, resync=resync))
    assert header.isascii()
    ack = decode_ack(header)
    assert ack.resync == resync
    assert [item.hint for item in ack.rejected] == ["fork"] * len(rejected)


@given(st.binary(max_size=300))
def test_a_hostile_ack_is_read_or_refused(data: bytes) -> None:
    try:
        decode_ack(data)
    except UnreadableHints:
        return
