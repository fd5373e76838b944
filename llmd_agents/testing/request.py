"""One request as it reached a recording server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmd_agents.hints import (
    HINTS_HEADER,
    Decoded,
    Event,
    Hints,
    Rejection,
    UnreadableHints,
    decode_events,
    decode_hints,
)

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"
MODEL_CALLS = frozenset((CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH))


@dataclass(eq=False)
class RecordedRequest:
    """One request as it reached the wire.

    Attributes:
        path: without the query.
        headers: by their names in lower case; several of one name are joined by `, `.
        at: Unix seconds of its arrival.
        status: of the answer, once that has begun.
        broken_off: whether either side closed the connection before the whole answer was sent.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float
    status: int | None = None
    broken_off: bool = False

    @cached_property
    def json(self) -> Any:
        """The body.

        Raises:
            ValueError: if it is not JSON.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    @property
    def is_model_call(self) -> bool:
        return self.method == "POST" and self.path in MODEL_CALLS

    @property
    def failed(self) -> bool:
        """Whether it was answered with an error, or the connection was closed before any answer."""
        return self.broken_off if self.status is None else self.status >= 400

    @property
    def model(self) -> str | None:
        model = self._member("model")
        return model if isinstance(model, str) else None

    @property
    def last_text(self) -> str:
        """The text of the last message, prompt or input item; empty if it has none."""
        return _text_of(self._member("messages", "prompt", "input"))

    @property
    def hints(self) -> Hints | None:
        """What the hint header declares, as far as it could be read; None if there is none."""
        return self._decoded.hints

    @property
    def rejected(self) -> tuple[Rejection, ...]:
        """What is wrong with the hint header: members with bad values, or `hints` for the whole of it."""
        return self._decoded.rejected

    @property
    def ignored(self) -> tuple[str, ...]:
        """Members of the hint header that this version does not know."""
        return self._decoded.ignored

    @cached_property
    def events(self) -> list[Event | Rejection]:
        """The lifecycle events in the body; the reason in the place of one that is bad.

        Raises:
            UnreadableHints: if it is no batch of events.
        """
        return decode_events(self.body)

    @cached_property
    def _decoded(self) -> Decoded:
        value = self.headers.get(HINTS_HEADER)
        if value is None:
            return Decoded(None)
        try:
            return decode_hints(value.encode("latin-1"))
        except UnreadableHints as error:
            return Decoded(None, (Rejection("hints", str(error)),))

    def _member(self, *names: str) -> Any:
        """Returns the first of these members that the body has."""
        try:
            body = self.json
        except ValueError:
            return None
        if not isinstance(body, dict):
            return None
        return next((body[name] for name in names if name in body), None)


def _text_of(value: Any) -> str:
    """Returns the text of a message, of a part of one, or of the last of several messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [item for item in value if isinstance(item, dict)]
        if parts and all("role" not in part and "text" in part for part in parts):
            return "".join(_text_of(part) for part in parts)
        return _text_of(value[-1]) if value else ""
    if isinstance(value, dict):
        return next((_text_of(value[name]) for name in ("content", "text", "output") if name in value), "")
    return ""
