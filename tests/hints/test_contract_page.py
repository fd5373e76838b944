"""The generated page, the JSON Schema, and the code that both are made from."""

import json
from pathlib import Path
from typing import Any, cast

import http_sf
import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from llmd_agents.hints import (
    Ack,
    Event,
    Forecast,
    ForkPosition,
    Hints,
    LoopPosition,
    Program,
    Segment,
    Step,
    decode_events,
    encode_ack,
    encode_events,
    encode_hints,
)
from llmd_agents.hints.document import (
    ACK_MEMBERS,
    DIRECTIVE_MODELS,
    EVENT_MODELS,
    HEADER_MEMBERS,
    RESIDENCY_MODELS,
    STEP_MODELS,
    contract_page,
    dialects_table,
    with_dialects,
)
from llmd_agents.hints.header import Rejection
from llmd_agents.hints.schema import contract_schema, field_docs
from tests.strategies import hints

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"

EVERYTHING = Hints(
    program=Program(id="p", name="n", priority=70, deadline=1.5),
    step=Step(
        id="s",
        branch="b",
        kind="act",
        model="m",
        agent="a",
        parents=("x",),
        join="all",
        fork=ForkPosition(id="f", index=0, width=2),
        loop=LoopPosition(id="l", iteration=1, limit=3),
    ),
    extends=bytes(16),
    segments=(
        Segment.model_validate(
            {"type": "document", "digest": b"d" * 16, "size": 1, "tokens": 1}
            | {"lifetime": 5.0, "scope": "tenant", "merged": 2}
        ),
    ),
    forecast=Forecast.model_validate(
        {"next": "tool", "after": 1.0, "sigma": 1.0, "fan_out": 2, "agent": "a", "output_tokens": 9}
    ),
    cut=("next",),
)


def test_the_pages_are_current() -> None:
    assert (ROOT / "docs/contract.md").read_text() == contract_page(), "run: make docs-contract"
    page = (ROOT / "docs/dialects.md").read_text()
    assert with_dialects(page) == page, "run: make docs-contract"


def test_a_page_without_a_place_for_the_table() -> None:
    with pytest.raises(ValueError, match="the page lacks"):
        with_dialects("# Dialects\n")
    assert "anthropic" in dialects_table()


def test_every_field_is_explained() -> None:
    for model in (*STEP_MODELS, *EVENT_MODELS, *RESIDENCY_MODELS, *DIRECTIVE_MODELS, Ack):
        unexplained = model.model_fields.keys() - field_docs(model).keys()
        assert not unexplained, f"{model.__name__}: {unexplained}"
    for definition in contract_schema()["$defs"].values():
        assert definition["title"]
        for schema in definition.get("properties", {}).values():
            assert schema["description"]


def members_of(header: str) -> dict[str, Any]:
    """Reads a header with a library that knows nothing of the contract."""
    return cast("dict[str, Any]", http_sf.parse(header.encode(), tltype="dictionary"))


def test_the_header_has_just_the_members_of_the_table() -> None:
    parsed = members_of(encode_hints(EVERYTHING))
    found = {}
    for member, (value, parameters) in parsed.items():
        inner = [set(params) for _, params in value] if isinstance(value, list) else []
        found[member] = set(parameters).union(*inner)
    assert found == {member: {name for name, *_ in below} for member, _, _, below in HEADER_MEMBERS}


def test_the_ack_has_just_the_members_of_the_table() -> None:
    one = (Rejection("x", "y"),)
    ack = encode_ack(Ack(accepted=("x",), clipped=one, rejected=one, ignored=("x",), resync=True))
    assert list(members_of(ack)) == [name for name, _ in ACK_MEMBERS]


def validator(name: str) -> Draft202012Validator:
    document = contract_schema()
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": document["$defs"]})


def test_the_schema_takes_the_golden_vectors() -> None:
    Draft202012Validator.check_schema(contract_schema())
    for file, member, name in (
        ("headers.json", "hints", "Hints"),
        ("acks.json", "ack", "Ack"),
        *((f"dialects/{path.name}", "hints", "Hints") for path in (VECTORS / "dialects").glob("*.json")),
    ):
        schema = validator(name)
        for vector in json.loads((VECTORS / file).read_text()):
            schema.validate(vector[member])
    batch = (VECTORS / "events.json").read_bytes()
    validator("EventBatch").validate(json.loads(batch))
    events = [event for event in decode_events(batch) if not isinstance(event, Rejection)]
    assert_events(events)


def assert_events(events: list[Event]) -> None:
    validator("EventBatch").validate(json.loads(encode_events(events)))


HINTS_SCHEMA = validator("Hints")


@given(hints)
def test_the_schema_takes_all_hints(declared: Hints) -> None:
    HINTS_SCHEMA.validate(json.loads(declared.model_dump_json()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Hints", {"program": {"id": "p"}}),
        ("Hints", {"program": {"id": "p\n"}, "step": {"id": "s"}}),
        ("Hints", {"program": {"id": "p" * 65}, "step": {"id": "s"}}),
        ("Hints", {"program": {"id": "p", "priority": 101}, "step": {"id": "s"}}),
        ("Hints", {"program": {"id": "p"}, "step": {"id": "s", "parents": ["x"] * 65}}),
        ("Hints", {"program": {"id": "p"}, "step": {"id": "s"}, "extends": "00"}),
        ("Ack", {"resync": "yes"}),
        ("EventBatch", {"version": 2, "events": []}),
        ("EventBatch", {"version": 1, "events": [{"type": "party", "program": "p", "at": 1}]}),
    ],
)
def test_the_schema_refuses(name: str, value: Any) -> None:
    assert not validator(name).is_valid(value)


def test_the_schema_keeps_what_later_versions_add() -> None:
    assert HINTS_SCHEMA.is_valid({"program": {"id": "p", "mood": 1}, "step": {"id": "s"}, "more": []})
