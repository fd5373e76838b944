"""The bodies of responses, in OpenAI's shape; every one says that no model ran."""

from collections.abc import Iterator
from typing import Any, Final

import orjson

from llmd_agents.serving import server_sent

from .completion import Completion
from .request import RequestStats
from .said import ToolCall
from .tokenizer import BYTES_PER_TOKEN

FINGERPRINT: Final = "llmd-agents-embedded-engine"
ENGINE_HEADER: Final = (b"x-llmd-engine", b"embedded; runs no model")
DONE: Final = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Returns one server-sent event."""
    return server_sent(orjson.dumps(value))


def usage(stats: RequestStats) -> dict[str, Any]:
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.output_tokens,
        "total_tokens": stats.prompt_tokens + stats.output_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
    }


def timing(stats: RequestStats) -> dict[str, Any]:
    """Returns the member `llmd` of a response: modelled seconds since the request's arrival."""
    return {
        "modelled": True,
        "queue_s": stats.queue_s,
        "ttft_s": stats.ttft_s,
        "e2e_s": stats.e2e_s,
    }


def whole(request_id: str, created: int, completion: Completion, stats: RequestStats) -> dict[str, Any]:
    """Returns the body of a response that is not streamed."""
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": completion.model,
        "choices": [
            {
                "index": 0,
                "message": _message(completion),
                "logprobs": None,
                "finish_reason": completion.finish_reason,
            }
        ],
        "usage": usage(stats),
        "llmd": timing(stats),
    }


def _message(completion: Completion) -> dict[str, Any]:
    if not completion.calls:
        return {"role": "assistant", "content": completion.output.decode()}
    shown = len(completion.output) // BYTES_PER_TOKEN
    calls = [
        {**call.as_json(), "function": {"name": call.name, "arguments": call.arguments[start:end]}}
        for _, call, start, end in _calls_between(completion, 0, shown)
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _calls_between(completion: Completion, sent: int, ready: int) -> Iterator[tuple[int, ToolCall, int, int]]:
    """Yields the calls that the tokens from `sent` to `ready` tell of: (index, call, and which characters of
    its arguments). The arguments of all calls are spread over the reply's tokens."""
    total = sum(len(call.arguments) for call in completion.calls)
    first, last = (total * token // completion.said_tokens for token in (sent, ready))
    start = 0
    for index, call in enumerate(completion.calls):
        end = start + len(call.arguments)
        if first < end and start < last:
            yield index, call, max(first - start, 0), min(last, end) - start
        start = end


class Chunks:
    """Writes the server-sent events of one streamed response: role, content, finish, usage if asked."""

    def __init__(self, request_id: str, created: int, completion: Completion) -> None:
        self._completion = completion
        self._base: dict[str, Any] = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": completion.model,
            "system_fingerprint": FINGERPRINT,
        }
        if completion.include_usage:
            self._base["usage"] = None

    def role(self) -> bytes:
        content = None if self._completion.calls else ""
        return self._choice({"role": "assistant", "content": content}, None)

    def part(self, sent: int, ready: int) -> bytes:
        """Returns the chunk that tells of the reply's tokens from `sent` (inclusive) to `ready` (exclusive);
        nothing where these show no part of a tool call yet."""
        completion = self._completion
        if not completion.calls:
            text = completion.output[sent * BYTES_PER_TOKEN : ready * BYTES_PER_TOKEN].decode()
            return self._choice({"content": text}, None)
        deltas = [
            _call_delta(index, call, start, end)
            for index, call, start, end in _calls_between(completion, sent, ready)
        ]
        return self._choice({"tool_calls": deltas}, None) if deltas else b""

    def end(self, stats: RequestStats) -> bytes:
        """Returns the finish chunk, the usage chunk if it was asked for, and the end mark."""
        reason = self._completion.finish_reason
        finish = self._choice({}, reason, llmd=timing(stats))
        if not self._completion.include_usage:
            return finish + DONE
        return finish + event({**self._base, "choices": [], "usage": usage(stats)}) + DONE

    def _choice(self, delta: dict[str, Any], reason: str | None, **members: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._base, "choices": [choice], **members})


def _call_delta(index: int, call: ToolCall, start: int, end: int) -> dict[str, Any]:
    arguments = {"arguments": call.arguments[start:end]}
    if start:
        return {"index": index, "function": arguments}
    return {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, **arguments}}


def models(names: tuple[str, ...], max_model_len: int) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": 0,
                "owned_by": "llmd-agents",
                "max_model_len": max_model_len,
            }
            for name in names
        ],
    }
