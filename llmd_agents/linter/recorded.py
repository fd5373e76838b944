"""Recorded requests, and how to read what recordings of many kinds have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmd_agents.hints import HINTS_HEADER, UNDECLARED, Hints, UnreadableHints, decode_hints

_BODY_MEMBERS = ("messages", "input", "prompt", "previous_response_id")
_NESTED_MAX = 4


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request.

    Attributes:
        scope: names its conversation or session; "" if the recording tells none.
        tokens: of its prompt, as the server counted them; None if not recorded.
    """

    scope: str
    body: Mapping[str, Any]
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedBlocks:
    """One request of a recording without text.

    Attributes:
        blocks: ids of the prompt's full blocks of `block_size` tokens.
    """

    scope: str
    model: str
    block_size: int
    blocks: tuple[int, ...]


Recorded = RecordedRequest | RecordedBlocks


def is_body(value: Mapping[str, Any]) -> bool:
    """Returns whether this looks like the body of a model call."""
    return any(isinstance(value.get(name), str | list) for name in _BODY_MEMBERS)


def prompt_tokens(record: Any) -> int | None:
    """Returns the count of prompt tokens in a response, or in an envelope around one."""
    for _ in range(_NESTED_MAX):
        if not isinstance(record, Mapping):
            return None
        if isinstance(usage := record.get("usage"), Mapping):
            if isinstance(count := usage.get("prompt_tokens"), int):
                return count
            parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            return sum(count for name in parts if isinstance(count := usage.get(name), int)) or None
        record = next((record[name] for name in ("response", "body") if name in record), None)
        record = maybe_json(record)
    return None


def scope_of_headers(headers: Any) -> str:
    """Returns the branch or session that a request's headers name; "" if they name none."""
    if isinstance(headers, list):
        pairs = [(one.get("name"), one.get("value")) for one in headers if isinstance(one, Mapping)]
    else:
        pairs = list(headers.items()) if isinstance(headers, Mapping) else []
    by_name = {str(name).lower(): value for name, value in pairs if isinstance(value, str)}
    try:
        hints = decode_hints(by_name[HINTS_HEADER]).hints if HINTS_HEADER in by_name else None
    except UnreadableHints:
        hints = None
    if hints is None:
        return by_name.get("x-session-id", "")
    return scope_of_hints(hints)


def scope_of_hints(hints: Hints) -> str:
    """Returns the branch that hints name.

    Of a client that declares nothing it is the whole program: there the branches were told apart by the
    prompts themselves, so that one that parts from its branch is on another.
    """
    if hints.program.name == UNDECLARED:
        return hints.program.id
    return f"{hints.program.id}/{hints.step.branch}"


def maybe_json(value: Any) -> Any:
    """Returns a value, parsed if it is JSON in a string; None for any other string."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
