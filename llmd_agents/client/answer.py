"""What an answer tells about its step: tokens, tools asked for. Its text is not looked at."""

from __future__ import annotations

from typing import Any

from llmd_agents.hints.limits import NAME_MAX_CHARS, SIZE_MAX

from .json_body import parse
from .tool_name import call_key

BODY_MAX_BYTES = 16 << 20
LINE_MAX_BYTES = 1 << 20
ASKED_MAX = 256


class Answer:
    """Takes the body of a response as it arrives. Whatever it holds, nothing is raised.

    Attributes:
        input_tokens: of the prompt, as the server counted it.
        cached_tokens: those of them that it had cached.
        output_tokens: of the reply.
        asked: the tools that the reply asks for: (call id or what stands for a long one, name).
        response_id: of the Responses API.
        complete: whether the end has been seen.
    """

    def __init__(self, *, streamed: bool) -> None:
        self.input_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.output_tokens: int | None = None
        self.asked: list[tuple[str, str]] = []
        self.response_id: str | None = None
        self.complete = False
        self._streamed = streamed
        self._parts: list[bytes] = []
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Takes some more of the body, decompressed."""
        if self._streamed:
            self._feed_lines(data)
        elif self._bytes <= BODY_MAX_BYTES:
            self._parts.append(data)
            self._bytes += len(data)

    def end(self) -> None:
        """Says that the body is complete."""
        self.complete = True
        if not self._streamed and 0 < self._bytes <= BODY_MAX_BYTES:
            self._take(b"".join(self._parts))
        elif self._streamed and self._parts:
            self._line(b"".join(self._parts))
        self._parts.clear()

    def _feed_lines(self, data: bytes) -> None:
        *lines, last = data.split(b"\n")
        if lines:
            if self._parts:
                lines[0] = b"".join((*self._parts, lines[0]))
                self._parts.clear()
                self._bytes = 0
            for line in lines:
                self._line(line)
        if last and self._bytes <= LINE_MAX_BYTES:
            self._parts.append(last)
            self._bytes += len(last)

    def _line(self, line: bytes) -> None:
        # Most lines carry a word of the text; only those that tell something else are parsed.
        if not line.startswith(b"data:") or len(line) > LINE_MAX_BYTES:
            return
        if b'"tool_calls"' in line or b'"function_call"' in line or b'_tokens"' in line:
            self._take(line[5:])
        elif line[5:].strip() == b"[DONE]":
            self.complete = True

    def _take(self, data: bytes) -> None:
        try:
            value = parse(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(value, dict):
            return
        if isinstance(response := value.get("response"), dict):  # an event of the Responses API
            self.complete = self.complete or value.get("type") == "response.completed"
            value = response
        self._usage(value.get("usage"))
        for choice in _objects(value.get("choices")):
            for name in ("message", "delta"):
                if isinstance(message := choice.get(name), dict):
                    for call in _objects(message.get("tool_calls")):
                        function = call.get("function")
                        if isinstance(function, dict):
                            self._asked(call.get("id"), function.get("name"))
        if value.get("object") == "response":
            if isinstance(identity := value.get("id"), str):
                self.response_id = identity
            for item in _objects(value.get("output")):
                if item.get("type") == "function_call":
                    self._asked(item.get("call_id"), item.get("name"))

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        self.input_tokens = _count(usage, "prompt_tokens", "input_tokens")
        self.output_tokens = _count(usage, "completion_tokens", "output_tokens")
        self.cached_tokens = _count(details, "cached_tokens") if isinstance(details, dict) else None

    def _asked(self, call: Any, name: Any) -> None:
        if not (isinstance(call, str) and call and isinstance(name, str)) or len(self.asked) >= ASKED_MAX:
            return
        key = call_key(call)
        if all(key != known for known, _ in self.asked):
            self.asked.append((key, name[:NAME_MAX_CHARS]))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _count(counts: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = counts.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SIZE_MAX:
            return value
    return None
