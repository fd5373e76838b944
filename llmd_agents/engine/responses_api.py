"""What Responses calls are answered, in OpenAI's shape."""

from typing import Any, Final

from .asked_response import AskedResponse
from .openai_api import FINGERPRINT, calls_between, dump, shown_tokens, text_between, timing
from .request import RequestStats
from .said import ToolCall

_ECHOED: Final[dict[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Members of a call that its response repeats, with what stands there if they were left out."""


class ResponseAnswer:
    """Writes what a Responses call is answered."""

    def __init__(self, response_id: str, created: int, asked: AskedResponse) -> None:
        self.asked = asked
        self._completion = asked.completion
        self._name = response_id.removeprefix("resp_")
        self._events = 0
        self._open: _Open | None = None
        body = asked.body
        self._base: dict[str, Any] = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": asked.completion.model,
            "background": False,
            **{
                name: default if (value := body.get(name)) is None else value
                for name, default in _ECHOED.items()
            },
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, stats: RequestStats) -> dict[str, Any]:
        cut = self._completion.finish_reason == "length"
        return {
            **self._base,
            "status": "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._output(),
            "usage": {
                "input_tokens": stats.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": stats.cached_tokens,
                    "cache_write_tokens": stats.prompt_tokens - stats.cached_tokens,
                },
                "output_tokens": stats.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": stats.prompt_tokens + stats.output_tokens,
            },
            "llmd": timing(stats),
        }

    def opening(self) -> bytes:
        response = {**self._pending("in_progress"), "error": None}
        return b"".join(self._event(kind, response=response) for kind in ("created", "in_progress"))

    def part(self, sent: int, ready: int) -> bytes:
        completion = self._completion
        if not completion.calls:
            item_id = self._message_id
            begun = b"" if sent else self._message_begins()
            delta = text_between(completion, sent, ready)
            where = {"item_id": item_id, "output_index": 0, "content_index": 0}
            return begun + self._event("output_text.delta", **where, delta=delta, logprobs=[])
        parts: list[bytes] = []
        for index, call, start, end in calls_between(completion, sent, ready):
            if self._open is None or self._open.index != index:
                parts.append(self._call_ends())
                self._open = _Open(index, call, 0)
                item = self._call(index, call, "", "in_progress")
                parts.append(self._event("output_item.added", output_index=index, item=item))
            where = {"item_id": self._call_id(index), "output_index": index}
            delta = call.arguments[start:end]
            parts.append(self._event("function_call_arguments.delta", **where, delta=delta))
            self._open.end = end
        return b"".join(parts)

    def end(self, stats: RequestStats) -> bytes:
        done = self._call_ends() if self._completion.calls else self._message_ends()
        response = self.whole(stats)
        return done + self._event(response["status"], response=response)

    def broken_off(self, message: str) -> bytes:
        error = {"code": "server_error", "message": message}
        return self._event("failed", response={**self._pending("failed"), "error": error})

    def _pending(self, status: str) -> dict[str, Any]:
        return {**self._base, "status": status, "incomplete_details": None, "output": [], "usage": None}

    def _output(self) -> list[dict[str, Any]]:
        completion = self._completion
        shown = shown_tokens(completion)
        if not completion.calls:
            return [self._message(text_between(completion, 0, shown))]
        return [
            self._call(index, call, call.arguments[start:end], _status(call, end))
            for index, call, start, end in calls_between(completion, 0, shown)
        ]

    # --- a message

    @property
    def _message_id(self) -> str:
        return f"msg_{self._name}"

    def _message(self, text: str) -> dict[str, Any]:
        cut = self._completion.finish_reason == "length"
        return {
            "id": self._message_id,
            "type": "message",
            "status": "incomplete" if cut else "completed",
            "role": "assistant",
            "content": [_text(text)],
        }

    def _message_begins(self) -> bytes:
        item = {**self._message(""), "status": "in_progress", "content": []}
        where = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        added = self._event("output_item.added", output_index=0, item=item)
        return added + self._event("content_part.added", **where, part=_text(""))

    def _message_ends(self) -> bytes:
        text = text_between(self._completion, 0, shown_tokens(self._completion))
        where = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        return (
            self._event("output_text.done", **where, text=text, logprobs=[])
            + self._event("content_part.done", **where, part=_text(text))
            + self._event("output_item.done", output_index=0, item=self._message(text))
        )

    # --- calls of tools

    def _call_id(self, index: int) -> str:
        return f"fc_{self._name}-{index}"

    def _call(self, index: int, call: ToolCall, arguments: str, status: str) -> dict[str, Any]:
        item = {**call.as_item(), "arguments": arguments}
        return {"id": self._call_id(index), "status": status, **item}

    def _call_ends(self) -> bytes:
        """Returns the end of the call that was told of last, if there is one."""
        if self._open is None:
            return b""
        index, call, end = self._open.index, self._open.call, self._open.end
        arguments = call.arguments[:end]
        where = {"item_id": self._call_id(index), "output_index": index}
        item = self._call(index, call, arguments, _status(call, end))
        return self._event(
            "function_call_arguments.done", **where, name=call.name, arguments=arguments
        ) + self._event("output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **members: Any) -> bytes:
        name = f"response.{kind}"
        data = dump({"type": name, "sequence_number": self._events, **members})
        self._events += 1
        return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


class _Open:
    """A call of a tool that a stream tells of: how many characters of its arguments were sent."""

    def __init__(self, index: int, call: ToolCall, end: int) -> None:
        self.index = index
        self.call = call
        self.end = end


def _status(call: ToolCall, end: int) -> str:
    return "completed" if end == len(call.arguments) else "incomplete"


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
