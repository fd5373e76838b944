"""Golden vectors of headers that other writers may send, and of acks."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmd_agents.hints import Ack, Hints, UnreadableHints, decode_ack, decode_hints, encode_ack

VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(name: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())
    return read


@pytest.mark.parametrize("vector", vectors("reading.json"), ids=lambda vector: str(vector["name"]))
def test_reading(vector: dict[str, Any]) -> None:
    try:
        decoded = decode_hints(vector["header"])
    except UnreadableHints:
        assert (vector["hints"], vector["rejected"], vector["ignored"]) == (None, ["hints"], [])
        return
    wanted = vector["hints"] and Hints.model_validate_json(json.dumps(vector["hints"]))
    assert decoded.hints == wanted
    assert sorted(one.hint for one in decoded.rejected) == vector["rejected"]
    assert sorted(decoded.ignored) == vector["ignored"]


@pytest.mark.parametrize("vector", vectors("acks.json"), ids=lambda vector: str(vector["name"]))
def test_acks(vector: dict[str, Any]) -> None:
    ack = Ack.model_validate_json(json.dumps(vector["ack"]))
    assert encode_ack(ack) == vector["header"]
    assert decode_ack(vector["header"]) == ack


def test_another_version_is_named_and_counts_for_nothing() -> None:
    with pytest.raises(UnreadableHints, match=r"version 2 is not known \(this is version 1\)"):
        decode_hints('v=2, program="p", step="s"')
    with pytest.raises(UnreadableHints):
        decode_ack("v=2, resync")
