"""What holds of every dialect, whatever the hints and the body say."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import Hints
from llmd_agents.hints.dialects import (
    DIALECTS,
    Surroundings,
    apply_body,
    apply_headers,
    client_dialects,
)
from llmd_agents.hints.providers import is_openai
from tests.strategies import bodies, hints, ids, json_values

MEMBERS = (
    "priority",
    "vllm_xargs",
    "kv_hints",
    "agent_hints",
    "nvext",
    "prompt_cache_key",
    "messages",
    "input",
)

surroundings = st.builds(
    Surroundings,
    parent_branch=st.none() | ids,
    objective=st.none() | st.text(),
    orders_by_priority=st.booleans(),
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "tool_result", "image_url", 7])},
    optional={"text": st.text() | st.integers(), "content": json_values, "cache_control": json_values},
)
strange_bodies = st.dictionaries(
    st.sampled_from([*MEMBERS, "system", "tools", "model"]),
    json_values
    | st.sampled_from(["gpt-5.6", "gpt-99999.1", "ft:gpt-6:me"])
    | st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
            optional={"content": st.text() | st.lists(blocks | json_values, max_size=3)},
        )
        | json_values,
        max_size=6,
    ),
)
any_body = bodies | strange_bodies


@given(hints, surroundings)
def test_headers_are_short_and_printable(declared: Hints, around: Surroundings) -> None:
    headers = apply_headers(DIALECTS, declared, around)
    for name, value in headers.items():
        assert name == name.lower()
        assert "_" not in name
        assert value.isascii()
        assert value.isprintable()
        assert 0 < len(value) <= 253
    assert sum(len(name) + len(value) + 4 for name, value in headers.items()) <= 2048


@given(hints, any_body, surroundings)
def test_bodies_stay_json_and_the_callers(
    declared: Hints, body: dict[str, Any], around: Surroundings
) -> None:
    before = copy.deepcopy(body)
    for name in DIALECTS:
        changed = apply_body([name], declared, body, around)
        assert body == before
        if changed is None:
            continue
        assert json.loads(json.dumps(changed)) == changed
        assert keeps(before, changed)
        assert apply_body([name], declared, changed, around) is None
    together = apply_body(DIALECTS, declared, body, around)
    assert together is None or apply_body(DIALECTS, declared, together, around) is None


def keeps(before: Any, after: Any) -> bool:
    """Returns whether all that was said is still said; text may be a block now, and null may be filled."""
    if before is None or before == after:
        return True
    if isinstance(before, dict):
        return isinstance(after, dict) and all(keeps(value, after.get(key)) for key, value in before.items())
    if isinstance(before, list):
        return (
            isinstance(after, list)
            and len(before) == len(after)
            and all(keeps(one, other) for one, other in zip(before, after, strict=True))
        )
    if isinstance(before, str) and isinstance(after, list) and len(after) == 1:
        return bool(after[0]["text"] == before)
    return False


@given(hints, st.lists(st.text(), max_size=3))
def test_no_content_travels_beyond_the_body_it_came_in(declared: Hints, texts: list[str]) -> None:
    secret = "\N{SNOWMAN}".join(["", *texts, ""])
    body = {"model": "gpt-5.6", "messages": [{"role": "user", "content": secret}]}
    changed = apply_body(DIALECTS, declared, body) or body
    del changed["messages"]
    assert secret not in json.dumps([changed, apply_headers(DIALECTS, declared)], ensure_ascii=False)


def test_a_body_nested_as_deep_as_json_goes() -> None:
    body: dict[str, Any] = {"model": "gpt-5.6", "messages": []}
    inner = body["messages"]
    for _ in range(20_000):
        block: dict[str, Any] = {"role": "user", "content": []}
        inner.append(block)
        inner = block["content"]
    declared = Hints.model_validate({"program": {"id": "p"}, "step": {"id": "s"}})
    changed = apply_body(client_dialects(("openai", "anthropic", "vllm")), declared, body)
    assert changed is not None
    assert changed["prompt_cache_key"] == "p"


def test_names_are_checked_where_they_are_chosen() -> None:
    assert client_dialects(["llm_d", "openai", "llm_d"]) == ("llm_d", "openai")
    assert client_dialects("vllm") == ("vllm",)
    with pytest.raises(ValueError, match="'vlm' is none of llm_d, vllm, sglang, dynamo, openai, anthropic"):
        client_dialects(["vlm"])
    with pytest.raises(ValueError, match="'kv_hints' is none of"):  # routers send it, applications do not
        client_dialects(["kv_hints"])


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1/", True),
        ("https://API.OPENAI.COM./v1", True),
        ("https://api.openai.com.example.org/v1", False),
        ("https://api.openai.com@example.org/v1", False),
        ("https://openai.com/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("https://[bad", False),
        ("", False),
        (None, False),
    ],
)
def test_whether_a_base_url_is_openais(base_url: object, *, expected: bool) -> None:
    assert is_openai(base_url) is expected
