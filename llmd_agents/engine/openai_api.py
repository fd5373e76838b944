"""The bodies of responses, in OpenAI's shape; every one says that no model ran."""

from typing import Any, Final

import orjson

from llmd_agents.serving import server_sent

from .completion import Completion
from .request import RequestStats

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
                "message": {"role": "assistant", "content": completion.output.decode()},
                "logprobs": None,
                "finish_reason": completion.finish_reason,
            }
        ],
        "usage": usage(stats),
        "llmd": timing(stats),
    }


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
        return self._choice({"role": "assistant", "content": ""}, None)

    def content(self, text: str) -> bytes:
        return self._choice({"content": text}, None)

    def end(self, stats: RequestStats) -> bytes:
        """Returns the finish chunk, the usage chunk if it was asked for, and the end mark."""
        reason = self._completion.finish_reason
        finish = self._choice({}, reason, llmd=timing(stats))
        if not self._completion.include_usage:
            return finish + DONE
        return finish + event({**self._base, "choices": [], "usage": usage(stats)}) + DONE

    def _choice(self, delta: dict[str, str], reason: str | None, **members: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._base, "choices": [choice], **members})


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
