"""What was seen of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What became of one thing that was tried. None says more than was seen."""

    HONOURED = "honoured"
    """Its effect was seen."""
    ACCEPTED = "accepted"
    """The call succeeded, and nothing shows whether it mattered."""
    IGNORED = "ignored"
    """The call succeeded, and the effect that it should have had was not there."""
    REFUSED = "refused"
    """The call failed because of it."""
    ABSENT = "absent"
    """The server does not have it."""
    UNKNOWN = "unknown"
    """It could not be tried."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        key: names it for programs, stable between versions.
        group: what it belongs to, for the table.
        title: names it for people.
        detail: what was seen.
    """

    key: str
    group: str
    title: str
    verdict: Verdict
    detail: str = ""


class Unusable(Exception):
    """The server cannot be reached, or answers no model calls.

    Attributes:
        usage: whether the caller can put it right by another option.
    """

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


@dataclass(slots=True)
class Diagnosis:
    """All that was seen of one server.

    Attributes:
        base_url: without credentials.
        program: id of the program as which the calls were declared.
        facts: what the server says of itself.
        calls: model calls that were made.
        prompt_tokens: what those were charged for, as far as the server said.
    """

    base_url: str
    model: str
    program: str
    facts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def verdict(self, key: str) -> Verdict:
        """Returns what became of one thing; `UNKNOWN` if it was not tried."""
        return next((one.verdict for one in self.findings if one.key == key), Verdict.UNKNOWN)

    def keys(self, prefix: str, verdict: Verdict) -> list[str]:
        """Returns the last parts of the keys below a prefix that came to a verdict."""
        return [
            one.key.removeprefix(prefix)
            for one in self.findings
            if one.key.startswith(prefix) and one.verdict is verdict
        ]

    def as_json(self, advice: list[str]) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "model": self.model,
            "program": self.program,
            "facts": self.facts,
            "findings": [
                {"key": one.key, "title": one.title, "verdict": one.verdict, "detail": one.detail}
                for one in self.findings
            ],
            "advice": advice,
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
        }
