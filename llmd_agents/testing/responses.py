"""Replies in the shape of `/v1/responses`."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from llmd_agents.serving import server_sent

from .spoken import Spoken, SpokenCall, Streamed

_ECHOED = ("instructions", "metadata", "previous_response_id", "reasoning", "temperature", "text", "top_p")
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def whole_response(spoken: Spoken) -> dict[str, Any]:
    usage = spoken.usage
    reason = _INCOMPLETE.get(spoken.finish_reason)
    return {
        **_opening(spoken),
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": [*_messages(spoken), *(_call(call, call.arguments, "completed") for call in spoken.calls)],
        "usage": {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        },
    }


def streamed_response(spoken: Spoken) -> Streamed:
    numbers = itertools.count()

    def event(kind: str, **members: Any) -> bytes:
        data = json.dumps({"type": kind, "sequence_number": next(numbers), **members}).encode()
        return f"event: {kind}\n".encode() + server_sent(data)

    def events() -> Iterator[tuple[bytes, bool]]:
        yield event("response.created", response=_opening(spoken)), False
        yield event("response.in_progress", response=_opening(spoken)), False
        for item in _messages(spoken):
            at = {"output_index": 0, "item_id": item["id"], "content_index": 0}
            started = {**item, "status": "in_progress", "content": []}
            yield event("response.output_item.added", output_index=0, item=started), False
            yield event("response.content_part.added", **at, part=_part("")), False
            for piece in spoken.pieces:
                yield event("response.output_text.delta", **at, delta=piece, logprobs=[]), True
            yield event("response.output_text.done", **at, text=spoken.text, logprobs=[]), False
            yield event("response.content_part.done", **at, part=_part(spoken.text)), False
            yield event("response.output_item.done", output_index=0, item=item), False
        for index, call in enumerate(spoken.calls, start=len(_messages(spoken))):
            where = {"output_index": index, "item_id": _item_id(call)}
            started = _call(call, "", "in_progress")
            yield event("response.output_item.added", output_index=index, item=started), False
            for piece in call.pieces:
                yield event("response.function_call_arguments.delta", **where, delta=piece), True
            said = {"name": call.name, "arguments": call.arguments}
            yield event("response.function_call_arguments.done", **where, **said), False
            done = _call(call, call.arguments, "completed")
            yield event("response.output_item.done", output_index=index, item=done), False

    body = list(events())
    whole = whole_response(spoken)
    return Streamed.of(body, event(f"response.{whole['status']}", response=whole))


def _opening(spoken: Spoken) -> dict[str, Any]:
    asked = spoken.body
    return {
        "id": f"resp_{spoken.number}",
        "object": "response",
        "created_at": spoken.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": spoken.model,
        "output": [],
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "usage": None,
        **{name: asked.get(name) for name in _ECHOED},
    }


def _messages(spoken: Spoken) -> list[dict[str, Any]]:
    """Returns the message that the reply consists of; none for a reply that only calls tools."""
    if spoken.calls and not spoken.text:
        return []
    return [
        {
            "id": f"msg_{spoken.number}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [_part(spoken.text)],
        }
    ]


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item_id(call: SpokenCall) -> str:
    return f"fc_{call.id}"


def _call(call: SpokenCall, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": _item_id(call),
        "type": "function_call",
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    }
