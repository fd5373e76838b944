"""What completions are answered, in OpenAI's shape."""

from typing import Any

from llmd_agents.serving import error_body

from .completion import Completion
from .openai_api import DONE, FINGERPRINT, event, shown_tokens, text_between, timing, usage
from .request import RequestStats


class TextAnswer:
    """Writes what a completion is answered."""

    def __init__(self, request_id: str, created: int, completion: Completion) -> None:
        self._completion = completion
        self._base: dict[str, Any] = {
            "id": request_id,
            "object": "text_completion",
            "created": created,
            "model": completion.model,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, stats: RequestStats) -> dict[str, Any]:
        completion = self._completion
        text = text_between(completion, 0, shown_tokens(completion))
        choice = _choice(text, completion.finish_reason)
        return {**self._base, "choices": [choice], "usage": usage(stats), "llmd": timing(stats)}

    def opening(self) -> bytes:
        return b""

    def part(self, sent: int, ready: int) -> bytes:
        return self._event(_choice(text_between(self._completion, sent, ready), None))

    def end(self, stats: RequestStats) -> bytes:
        """Returns the finish chunk, the usage chunk if it was asked for, and the end mark."""
        finish = self._event(_choice("", self._completion.finish_reason), llmd=timing(stats))
        if not self._completion.include_usage:
            return finish + DONE
        return finish + event({**self._base, "choices": [], "usage": usage(stats)}) + DONE

    def broken_off(self, message: str) -> bytes:
        return event(error_body(message, kind="server_error"))

    def _event(self, choice: dict[str, Any], **members: Any) -> bytes:
        if self._completion.include_usage:
            members["usage"] = None
        return event({**self._base, "choices": [choice], **members})


def _choice(text: str, reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
