"""Replies in the shapes of `/v1/chat/completions` and `/v1/completions`."""

import json
from collections.abc import Iterator
from typing import Any

from llmd_agents.serving import server_sent

from .answers import Usage
from .spoken import Spoken, SpokenCall, Streamed

_DONE = server_sent(b"[DONE]")


def whole_chat(spoken: Spoken) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": spoken.text, "refusal": None}
    if spoken.calls:
        message["tool_calls"] = [_call(call) for call in spoken.calls]
        message["content"] = spoken.text or None
    return {
        **_base(spoken, "chatcmpl", "chat.completion"),
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": spoken.finish_reason}
            for index in range(_choices(spoken))
        ],
        "usage": usage(spoken.usage),
    }


def streamed_chat(spoken: Spoken) -> Streamed:
    base = _base(spoken, "chatcmpl", "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            for index in range(_choices(spoken))
        ]
        return _event({**base, "choices": choices})

    def events() -> Iterator[tuple[bytes, bool]]:
        yield chunk({"role": "assistant", "content": "" if spoken.text else None, "refusal": None}), False
        for piece in spoken.pieces:
            yield chunk({"content": piece}), True
        for index, call in enumerate(spoken.calls):
            opening = {**_call(call), "function": {"name": call.name, "arguments": ""}}
            yield chunk({"tool_calls": [{"index": index, **opening}]}), False
            for piece in call.pieces:
                yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), True

    return Streamed.of(events(), chunk({}, spoken.finish_reason) + _usage_chunk(spoken, base) + _DONE)


def whole_completion(spoken: Spoken) -> dict[str, Any]:
    return {
        **_base(spoken, "cmpl", "text_completion"),
        "choices": [_text_choice(index, spoken.text, spoken) for index in range(_choices(spoken))],
        "usage": usage(spoken.usage),
    }


def streamed_completion(spoken: Spoken) -> Streamed:
    base = _base(spoken, "cmpl", "text_completion")

    def chunk(text: str, finish_reason: str | None = None) -> bytes:
        choices = [
            {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
            for index in range(_choices(spoken))
        ]
        return _event({**base, "choices": choices})

    tail = chunk("", spoken.finish_reason) + _usage_chunk(spoken, base) + _DONE
    return Streamed.of(((chunk(piece), True) for piece in spoken.pieces), tail)


def usage(counted: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counted.prompt,
        "completion_tokens": counted.completion,
        "total_tokens": counted.prompt + counted.completion,
        "prompt_tokens_details": {"cached_tokens": counted.cached},
        "completion_tokens_details": {"reasoning_tokens": counted.reasoning},
    }


def _base(spoken: Spoken, prefix: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{spoken.number}",
        "object": kind,
        "created": spoken.created,
        "model": spoken.model,
    }


def _choices(spoken: Spoken) -> int:
    asked = spoken.body.get("n")
    return min(asked, 128) if isinstance(asked, int) and asked > 0 else 1


def _text_choice(index: int, text: str, spoken: Spoken) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": spoken.finish_reason}


def _call(call: SpokenCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _usage_chunk(spoken: Spoken, base: dict[str, Any]) -> bytes:
    options = spoken.body.get("stream_options")
    if not isinstance(options, dict) or options.get("include_usage") is not True:
        return b""
    return _event({**base, "choices": [], "usage": usage(spoken.usage)})


def _event(value: Any) -> bytes:
    return server_sent(json.dumps(value).encode())
