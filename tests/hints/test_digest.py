import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from llmd_agents.hints import UnreadableContext, chain
from tests.strategies import bodies, messages

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize(
    "vector", json.loads((VECTORS / "digests.json").read_text()), ids=lambda vector: str(vector["name"])
)
def test_golden_vectors(vector: dict[str, Any]) -> None:
    links = chain(vector["body"])
    assert [link.digest.hex() for link in links] == vector["digests"]
    assert [link.size for link in links] == vector["sizes"]


def test_vector_by_hand() -> None:
    head = xxh3_128_digest(b"llmd-agents chain 1\nl1:m0:deele")
    first = xxh3_128_digest(head + b"d7:content5:Hello4:role4:usere")
    links = chain({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    assert [link.digest for link in links] == [head, first]


@given(bodies)
def test_same_body_same_chain(body: dict[str, Any]) -> None:
    copied = json.loads(json.dumps(body, indent=2, sort_keys=True))
    assert chain(copied) == chain(body)


@given(bodies, messages)
def test_a_further_message_only_adds_a_link(body: dict[str, Any], message: dict[str, Any]) -> None:
    longer = {**body, "messages": [*body["messages"], message]}
    assert chain(longer)[:-1] == chain(body)


@given(bodies, st.data())
def test_a_changed_message_changes_every_later_digest(body: dict[str, Any], data: st.DataObject) -> None:
    if not body["messages"]:
        return
    index = data.draw(st.integers(0, len(body["messages"]) - 1))
    changed = [dict(message) for message in body["messages"]]
    changed[index]["added"] = "x"
    before, after = chain(body), chain({**body, "messages": changed})
    assert before[: index + 1] == after[: index + 1]
    assert all(a.digest != b.digest for a, b in zip(before[index + 1 :], after[index + 1 :], strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"tools": [{"type": "function"}]},
        {"chat_template_kwargs": {"thinking": True}},
        {"reasoning_effort": "low"},
        {"tool_choice": "none"},
        {"documents": [{"text": "x"}]},
        {"truncate_prompt_tokens": 100},
    ],
)
def test_the_head_holds_what_precedes_the_messages(change: dict[str, Any]) -> None:
    body = {"model": "m", "messages": []}
    assert chain({**body, **change})[0].digest != chain(body)[0].digest


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.5}, {"max_tokens": 5}, {"stream": True}, {"tool_choice": "auto"}, {"tools": None}],
)
def test_the_head_holds_nothing_else(change: dict[str, Any]) -> None:
    body = {"model": "m", "messages": []}
    assert chain({**body, **change}) == chain(body)


def test_adapters_are_told_apart() -> None:
    body = {"model": "m", "messages": []}
    assert chain(body, adapter="lora")[0] != chain(body)[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": "text"}, "messages is not an array"),
        ({"messages": ["text"]}, r"messages\[0\] is not an object"),
        ({"tools": {}}, "tools is not an array"),
        ({"messages": [{"role": "user", "content": {1, 2}}]}, "set is not a JSON type"),
    ],
)
def test_says_what_is_wrong(body: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableContext, match=message):
        chain(body)


def test_nesting_without_end_is_refused() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnreadableContext):
        chain({"messages": [{"role": "user", "content": deep}]})
