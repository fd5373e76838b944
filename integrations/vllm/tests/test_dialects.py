"""What the dialects make is what vLLM's own types take."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.v1.kv_hints.protocol import KvHintsEnvelope

from llmd_agents.hints import (
    Forecast,
    Hints,
    Lifetime,
    Next,
    Program,
    Segment,
    SegmentType,
    Step,
    decode_directives,
)
from llmd_agents.hints.dialects import Surroundings, apply_body

VECTORS = Path(__file__).parents[3] / "tests" / "vectors" / "dialects"

seconds = st.floats(0, 1e9)
digests = st.binary(min_size=16, max_size=16)
segments = st.builds(
    Segment,
    type=st.sampled_from(SegmentType),
    digest=digests,
    size=st.integers(0, 10**12),
    lifetime=st.none() | st.sampled_from(Lifetime) | seconds,
)
hints = st.builds(
    Hints,
    program=st.builds(Program, id=st.just("p"), priority=st.integers(0, 100)),
    step=st.builds(Step, id=st.just("s")),
    extends=st.none() | digests,
    segments=st.lists(segments, max_size=4).map(tuple),
    forecast=st.none()
    | st.builds(
        Forecast,
        next=st.sampled_from(Next),
        after=st.none() | seconds,
        sigma=st.none() | st.floats(0, 10),
    ),
)


def vectors(name: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return read


def envelope(value: Any) -> KvHintsEnvelope:
    """Nothing is lost on the way through vLLM's own structs."""
    read = msgspec.json.decode(json.dumps(value).encode(), type=KvHintsEnvelope)
    assert msgspec.to_builtins(read) == value
    return read


@pytest.mark.parametrize("vector", vectors("kv_hints"), ids=lambda vector: str(vector["name"]))
def test_envelopes(vector: dict[str, Any]) -> None:
    made = vector["fields"].get("kv_hints")
    if made is not None:
        types = [action.action_type for action in envelope(made).actions]
        assert types
        assert set(types) <= {"retain", "release"}


@given(hints)
def test_any_envelope(declared: Hints) -> None:
    body = apply_body(["kv_hints"], declared, {"model": "m"})
    if body is None:
        return
    read = envelope(body["kv_hints"])
    message = decode_directives(json.dumps(body["kv_hints"]).encode())
    assert message.message_id == read.message_id
    assert all(isinstance(action, tuple) for action in message.actions)  # none is refused


@given(hints)
def test_any_request(declared: Hints) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    changed = apply_body(["vllm"], declared, body, Surroundings(orders_by_priority=True)) or body
    request = ChatCompletionRequest.model_validate_json(json.dumps(changed))
    assert request.vllm_xargs == changed.get("vllm_xargs")
    assert request.priority == 50 - declared.program.priority
