"""Conversations to be linted: an earlier request, a later one that extends it, and edits of the later one."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

Body = dict[str, Any]

TIMES = ("2026-11-21T10:00:01Z", "2026-11-21T10:03:17Z")


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


def agent() -> Body:
    """Returns a request of an agent that has called a tool."""
    call = {"id": "c1", "type": "function", "function": {"name": "a", "arguments": '{"x":"1","y":2}'}}
    return {
        "model": "m",
        "tools": [tool("a"), tool("b")],
        "messages": [
            {"role": "system", "content": f"Grüße!\nThe time is {TIMES[0]}.\nBe brief. {'x' * 500}"},
            {"role": "user", "content": "What is the answer to everything?"},
            {"role": "assistant", "reasoning_content": "Hm.", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "a long result, " * 50 + "and its end"},
        ],
    }


def continued(body: Body, answer: str = "It is 42.", question: str = "Why is that so?") -> Body:
    later = copy.deepcopy(body)
    later["messages"] += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    return later


def encoded(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def first_difference(one: str, other: str) -> int:
    """Returns where the first differing character begins, in bytes; found by looking at each."""
    at = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        at += len(a.encode("utf-8", "surrogatepass"))
    return at


@st.composite
def conversations(draw: st.DrawFn) -> Body:
    """A request with tools, a system prompt and at least three turns, all different."""
    turns = draw(st.lists(st.text(min_size=1, max_size=60), min_size=3, max_size=8))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"{draw(st.text(max_size=80))} at {TIMES[0]}."}
    ]
    for index, text in enumerate(turns):
        message: dict[str, Any] = {"role": ("user", "assistant")[index % 2], "content": f"<{index}>{text}"}
        if index % 2:
            message["reasoning_content"] = f"[{index}] {draw(st.text(max_size=20))}"
        messages.append(message)
    return {"model": "m", "tools": [tool(name) for name in "abc"], "messages": messages}
