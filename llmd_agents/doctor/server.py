"""The server in question, asked over HTTP: bounded in time and size, and every failure is an answer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from .finding import Verdict

BODY_MAX_BYTES: Final = 4 << 20
MESSAGE_MAX_CHARS: Final = 160

_REFUSES_US: Final = frozenset((401, 403))
_LACKS_IT: Final = frozenset((404, 405, 501))
_NOT_NOW: Final = frozenset((408, 429, 502, 503, 504))


def printable(text: str) -> str:
    """Returns what a server said as one short line without control characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: 4 * MESSAGE_MAX_CHARS])
    line = " ".join(line.split())
    return line if len(line) <= MESSAGE_MAX_CHARS else f"{line[: MESSAGE_MAX_CHARS - 1]}…"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or what stood in its place.

    Attributes:
        status: None if there was no answer; `error` says why.
        body: at most `BODY_MAX_BYTES` of it.
    """

    status: int | None
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    body: bytes = b""
    error: str = ""
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def object(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none."""
        found = self.json
        return found if isinstance(found, dict) else {}

    @property
    def message(self) -> str:
        """What went wrong, in the server's words: an error of OpenAI's form, or the body itself."""
        if self.status is None:
            return self.error
        error = self.object.get("error", self.object.get("detail", self.object.get("message")))
        if isinstance(error, dict):
            error = error.get("message")
        text = error if isinstance(error, str) else self.body[:1000].decode("utf-8", "replace")
        return printable(f"{self.status} {text}")

    @property
    def failure(self) -> Verdict:
        """What an answer that is not `ok` says of what was tried."""
        if self.status is None:
            return Verdict.UNKNOWN if self.timed_out else Verdict.REFUSED
        if self.status in _LACKS_IT:
            return Verdict.ABSENT
        return Verdict.UNKNOWN if self.status in _NOT_NOW else Verdict.REFUSED

    @property
    def forbids(self) -> bool:
        return self.status in _REFUSES_US

    @property
    def usage(self) -> tuple[int, int, int | None] | None:
        """Tokens: (of the prompt, of the output, of the prompt from a cache or None); None if untold."""
        return usage_of(self.object)


def usage_of(body: dict[str, Any]) -> tuple[int, int, int | None] | None:
    """Reads the usage of a response's body, of chat completions and of Responses alike."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return None if prompt is None else (prompt, output or 0, cached)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else None


class Server:
    """One server under its base URL.

    Args:
        client: must follow no redirects.
        base: with `/v1` where the server has it.
        timeout: seconds for one answer, in all.
    """

    def __init__(self, client: httpx.Client, base: str, api_key: str | None, timeout: float) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self.base = base
        self.model = ""
        self.calls = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.limit: dict[str, int] = {"max_tokens": 1}
        """How a short answer is asked for."""

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        until: bytes | None = None,
    ) -> Reply:
        """Sends one request.

        Args:
            path: below the base URL.
            body: JSON, as a value or as bytes.
            until: stop reading the answer once it holds this.
        """
        deadline = time.monotonic() + self._timeout
        sent = {**self._headers, **(headers or {})}
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        if content is not None:
            sent["content-type"] = "application/json"
        try:
            with self._client.stream(
                method, self.base + path, content=content, headers=sent, timeout=self._timeout
            ) as response:
                read = bytearray()
                for chunk in response.iter_bytes():
                    read += chunk
                    if len(read) >= BODY_MAX_BYTES or (until is not None and until in read):
                        break
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("")
                return Reply(response.status_code, response.headers, bytes(read[:BODY_MAX_BYTES]))
        except httpx.TimeoutException:
            return Reply(None, error=f"no answer within {self._timeout:g} s", timed_out=True)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return Reply(None, error=printable(str(error) or type(error).__name__))

    def call(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
        """Makes one model call, and counts what it costs."""
        self.calls += 1
        reply = self.ask("POST", path, {"model": self.model, **body}, headers)
        if reply.ok and (usage := reply.usage) is not None:
            self.prompt_tokens += usage[0]
            self.output_tokens += usage[1]
        return reply

    def chat(
        self,
        messages: list[dict[str, Any]] | None = None,
        fields: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Makes a chat completion of one token."""
        body = {
            "messages": messages or [{"role": "user", "content": "Say ok."}],
            **self.limit,
            **(fields or {}),
        }
        return self.call("/chat/completions", body, headers)
