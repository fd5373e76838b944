"""The bodies of responses, in OpenAI's shape; every one says that no model ran. Chat completions are here."""

import json
from collections.abc import Iterator
from typing import Any, Final, Protocol

import orjson

from llmd_agents.serving import error_body, server_sent

from .completion import Completion
from .request import RequestStats
from .said import ToolCall
from .tokenizer import BYTES_PER_TOKEN

FINGERPRINT: Final = "llmd-agents-embedded-engine"
ENGINE_HEADER: Final = (b"x-llmd-engine", b"embedded; runs no model")
DONE: Final = b"data: [DONE]\n\n"


def dump(value: Any) -> bytes:
    """Returns a value in JSON, in one line."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # The standard library also writes the lone surrogates and large numbers that it has read in a body.
        return json.dumps(value, separators=(",", ":")).encode()


def event(value: Any) -> bytes:
    """Returns one server-sent event."""
    return server_sent(dump(value))


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


class Answer(Protocol):
    """Writes what one call is answered: whole, or as the server-sent events of a stream."""

    def whole(self, stats: RequestStats) -> dict[str, Any]:
        """Returns the body of a response that is not streamed."""
        ...

    def opening(self) -> bytes:
        """Returns what is sent before there is any token."""
        ...

    def part(self, sent: int, ready: int) -> bytes:
        """Returns what tells of the reply's tokens from `sent` (inclusive) to `ready` (exclusive)."""
        ...

    def end(self, stats: RequestStats) -> bytes:
        """Returns the end of a stream, after the last token."""
        ...

    def broken_off(self, message: str) -> bytes:
        """Returns the end of a stream that has no further tokens."""
        ...


class ChatAnswer:
    """Writes what a chat completion is answered."""

    def __init__(self, request_id: str, created: int, completion: Completion) -> None:
        self._completion = completion
        self._id = request_id
        self._created = created
        self._base: dict[str, Any] = {
            "id": request_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": completion.model,
            "system_fingerprint": FINGERPRINT,
        }
        if completion.include_usage:
            self._base["usage"] = None

    def whole(self, stats: RequestStats) -> dict[str, Any]:
        completion = self._completion
        choice = {
            "index": 0,
            "message": _message(completion),
            "logprobs": None,
            "finish_reason": completion.finish_reason,
        }
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": completion.model,
            "choices": [choice],
            "usage": usage(stats),
            "llmd": timing(stats),
        }

    def opening(self) -> bytes:
        return b""

    def part(self, sent: int, ready: int) -> bytes:
        """Returns what tells of the reply's tokens from `sent` (inclusive) to `ready` (exclusive).

        Besides the role, that is nothing where these show no part of a tool call yet.
        """
        completion = self._completion
        role = b"" if sent else self._role()
        if not completion.calls:
            return role + self._choice({"content": text_between(completion, sent, ready)}, None)
        deltas = [
            _call_delta(index, call, start, end)
            for index, call, start, end in calls_between(completion, sent, ready)
        ]
        return role + (self._choice({"tool_calls": deltas}, None) if deltas else b"")

    def end(self, stats: RequestStats) -> bytes:
        """Returns the finish chunk, the usage chunk if it was asked for, and the end mark."""
        reason = self._completion.finish_reason
        finish = self._choice({}, reason, llmd=timing(stats))
        if not self._completion.include_usage:
            return finish + DONE
        return finish + event({**self._base, "choices": [], "usage": usage(stats)}) + DONE

    def broken_off(self, message: str) -> bytes:
        return event(error_body(message, kind="server_error"))

    def _role(self) -> bytes:
        content = None if self._completion.calls else ""
        return self._choice({"role": "assistant", "content": content}, None)

    def _choice(self, delta: dict[str, Any], reason: str | None, **members: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._base, "choices": [choice], **members})


def text_between(completion: Completion, sent: int, ready: int) -> str:
    """Returns the text of the tokens from `sent` to `ready` of a reply in words."""
    return completion.output[sent * BYTES_PER_TOKEN : ready * BYTES_PER_TOKEN].decode()


def shown_tokens(completion: Completion) -> int:
    """Returns how many tokens of the reply are given."""
    return len(completion.output) // BYTES_PER_TOKEN


def calls_between(completion: Completion, sent: int, ready: int) -> Iterator[tuple[int, ToolCall, int, int]]:
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


def _message(completion: Completion) -> dict[str, Any]:
    if not completion.calls:
        return {"role": "assistant", "content": completion.output.decode()}
    calls = [
        {**call.as_json(), "function": {"name": call.name, "arguments": call.arguments[start:end]}}
        for _, call, start, end in calls_between(completion, 0, shown_tokens(completion))
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


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
