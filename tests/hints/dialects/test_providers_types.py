"""What the dialects make is what the providers' own packages call valid."""

import json
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as AnthropicParams
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseParams
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, with_config

from llmd_agents.hints import Hints
from llmd_agents.hints.dialects import apply_body
from tests.strategies import hints

VECTORS = Path(__file__).parents[2] / "vectors" / "dialects"


def strictly(params: Any) -> TypeAdapter[Any]:
    """Unknown members are refused, so that a misspelt one is seen."""
    with_config(ConfigDict(extra="forbid"))(params)
    return TypeAdapter(params)


CHAT, RESPONSE, ANTHROPIC = strictly(ChatParams), strictly(ResponseParams), strictly(AnthropicParams)


def valid(adapter: TypeAdapter[Any], body: Any) -> None:
    """Validates the JSON that goes out: lazily validated lists to their end, and no member is dropped."""
    read = adapter.validate_json(json.dumps(body))
    for name in ("messages", "input", "tools", "system"):
        sent = body.get(name)
        for item, given_item in zip(read[name], sent, strict=True) if isinstance(sent, list) else ():
            if isinstance(given_item.get("content"), list):
                assert [plain(one) for one in item["content"]] == [
                    plain(one) for one in given_item["content"]
                ]


def plain(block: Any) -> dict[str, Any]:
    """Returns a block without what is validated only when it is read."""
    members = block.model_dump(exclude_unset=True) if isinstance(block, BaseModel) else block
    return {name: value for name, value in members.items() if name != "content"}


def vectors(name: str) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return read


@pytest.mark.parametrize("vector", vectors("openai"), ids=lambda vector: str(vector["name"]))
def test_openai_vectors(vector: dict[str, Any]) -> None:
    body = {**vector["body"], **vector["fields"]}
    valid(RESPONSE if "input" in body else CHAT, body)


@pytest.mark.parametrize("vector", vectors("anthropic"), ids=lambda vector: str(vector["name"]))
def test_anthropic_vectors(vector: dict[str, Any]) -> None:
    body = {**vector["body"], **vector["fields"]}
    if "system" in body or "tools" in body:  # the other is in OpenAI's form, for gateways
        valid(ANTHROPIC, body)
        assert len(marks(body)) <= 4
        assert marks(body) == sorted(marks(body))  # "1h" before "5m"


def marks(body: dict[str, Any]) -> list[str]:
    """Lifetimes of all marks, in the order in which Anthropic renders a prompt."""
    listed = [body.get("tools"), body.get("system"), body.get("messages")]
    outer = [block for one in listed if isinstance(one, list) for block in one]
    every = [one for block in outer for one in (block, *blocks(block))]
    return [one["cache_control"].get("ttl", "5m") for one in every if "cache_control" in one]


texts = st.text(min_size=1, max_size=8)
roles = st.sampled_from(["system", "developer", "user", "assistant"])
part = st.builds(lambda text: {"type": "text", "text": text}, texts)
chat_messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        roles,
        texts | st.lists(part, min_size=1, max_size=3),
    )
    | st.builds(lambda text: {"role": "tool", "tool_call_id": "c", "content": text}, texts),
    min_size=1,
    max_size=8,
)
claude_messages = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["user", "assistant"]),
        texts
        | st.lists(
            part
            | st.just({"type": "thinking", "thinking": "hm", "signature": "x"})
            | st.builds(lambda text: {"type": "tool_result", "tool_use_id": "t", "content": text}, texts),
            min_size=1,
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=8,
)
claude_tools = st.lists(
    st.just({"name": "search", "input_schema": {"type": "object"}})
    | st.just({"type": "web_search_20250305", "name": "web_search"}),
    max_size=2,
)


@given(hints, chat_messages)
def test_any_chat(declared: Hints, messages: list[dict[str, Any]]) -> None:
    body = apply_body(["openai"], declared, {"model": "gpt-5.6", "messages": messages})
    assert body is not None
    valid(CHAT, body)
    written = sum("prompt_cache_breakpoint" in block for one in body["messages"] for block in blocks(one))
    assert written <= 3


@given(
    hints, st.lists(st.builds(lambda r, t: {"role": r, "content": t}, roles, texts), min_size=1, max_size=8)
)
def test_any_response(declared: Hints, items: list[dict[str, Any]]) -> None:
    body = apply_body(["openai"], declared, {"model": "gpt-5.6", "input": items})
    valid(RESPONSE, body)


@given(hints, claude_messages, st.none() | texts | st.lists(part, min_size=1, max_size=2), claude_tools)
def test_any_claude(declared: Hints, messages: list[dict[str, Any]], system: Any, tools: list[Any]) -> None:
    body: dict[str, Any] = {"model": "claude", "max_tokens": 9, "messages": messages, "tools": tools}
    if system is not None:
        body["system"] = system
    changed = apply_body(["anthropic"], declared, body) or body
    valid(ANTHROPIC, changed)
    assert len(marks(changed)) <= 4
    assert marks(changed) == sorted(marks(changed))
    for one in changed["messages"]:
        assert all("cache_control" not in block for block in blocks(one) if block["type"] == "thinking")


def blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


@pytest.mark.parametrize(
    ("adapter", "body"),
    [
        (CHAT, {"model": "m", "messages": [], "prompt_cache_keys": "p"}),
        (CHAT, {"model": "m", "messages": [], "prompt_cache_key": 7}),
        (ANTHROPIC, {"model": "m", "max_tokens": 9, "messages": [], "cache_controls": {}}),
    ],
)
def test_the_types_do_refuse(adapter: TypeAdapter[Any], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        valid(adapter, body)
