"""Dialects: one declaration in the words of each stack that understands some of it.

Headers cost nothing where they are not understood. What changes the body is for whoever asks for it, as a
server may refuse members that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..models import Hints
from .anthropic import ANTHROPIC
from .dialect import Dialect, Surroundings
from .dynamo import DYNAMO
from .kv_hints import KV_HINTS
from .llm_d import LLM_D
from .openai import OPENAI
from .sglang import SGLANG
from .vllm import VLLM

__all__ = [
    "DIALECTS",
    "Dialect",
    "Surroundings",
    "apply_body",
    "apply_headers",
    "client_dialects",
]

DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {one.name: one for one in (LLM_D, VLLM, KV_HINTS, SGLANG, DYNAMO, OPENAI, ANTHROPIC)}
)

_NOTHING = Surroundings()


def client_dialects(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names, each once, after checking that an application may send them.

    Raises:
        ValueError: for a name that is no dialect, or one that only routers send.
    """
    allowed = [name for name, one in DIALECTS.items() if one.sender == "client"]
    chosen = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in chosen:
        if name not in allowed:
            raise ValueError(f"dialect {name!r} is none of {', '.join(allowed)}")
    return chosen


def apply_headers(names: Iterable[str], hints: Hints, around: Surroundings = _NOTHING) -> dict[str, str]:
    """Returns the headers that dialects add to a request: lower-case names, printable ASCII values.

    A header that the caller has set himself stays as it is: the result is to be merged below his own.
    """
    headers: dict[str, str] = {}
    for name in names:
        if (make := DIALECTS[name].headers) is not None:
            headers |= make(hints, around)
    return headers


def apply_body(
    names: Iterable[str], hints: Hints, body: Mapping[str, Any], around: Surroundings = _NOTHING
) -> dict[str, Any] | None:
    """Returns a request body with what dialects add to it; None if that is nothing.

    `body` stays as it is. What the caller has set himself is never replaced. Doing it twice adds nothing.
    """
    changed: dict[str, Any] = dict(body)
    added = False
    for name in names:
        make = DIALECTS[name].fields
        if make is not None and (fields := make(hints, changed, around)):
            changed |= fields
            added = True
    return changed if added else None
