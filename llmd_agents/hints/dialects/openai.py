"""OpenAI's prompt cache: `prompt_cache_key`, and explicit breakpoints for models that take them.

`prompt_cache_options` stays unset: its defaults are what is wanted, an implicit breakpoint at the end and
half an hour; its other mode would give up reading what earlier turns have cached. `metadata` stays unset too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from ..models import Hints, Lifetime
from .breakpoints import boundaries, has_mark, some, with_mark
from .dialect import Dialect, Surroundings

_MARK: Final = "prompt_cache_breakpoint"
_MARKS_MAX: Final = 3
"""A request writes four breakpoints at most, one of them the implicit one."""

_HALF_HOUR_S: Final = 1800
_FIRST_WITH_BREAKPOINTS: Final = (5, 6)
_MODEL: Final = re.compile(r"(?:ft:)?gpt-(\d{1,4})(?:\.(\d{1,4}))?(?![0-9])")
_BLOCKS: Final = frozenset(
    ("text", "image_url", "input_audio", "file", "input_text", "input_image", "input_file")
)


def _fields(hints: Hints, body: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if body.get("prompt_cache_key") is None:
        # An id has at most 64 characters, as many as a key may have. All branches of a program share it, as
        # they share their prefix; one key for all runs of a workflow would be too much for one machine.
        fields["prompt_cache_key"] = hints.program.id
    if _takes_breakpoints(body.get("model")):
        for member, text_type in (("messages", "text"), ("input", "input_text")):
            if (marked := _marked(hints, body.get(member), text_type)) is not None:
                fields[member] = marked
    return fields


def _takes_breakpoints(model: Any) -> bool:
    found = _MODEL.match(model) if isinstance(model, str) else None
    return found is not None and (int(found[1]), int(found[2] or 0)) >= _FIRST_WITH_BREAKPOINTS


def _marked(hints: Hints, messages: Any, text_type: str) -> list[Any] | None:
    if not isinstance(messages, list) or has_mark(_MARK, messages):
        return None
    last = len(messages) - 1  # has the implicit breakpoint
    found = [
        boundary
        for boundary in boundaries(hints, messages)
        if boundary.position != last and _takes_marks(messages[boundary.position])
    ]
    listed: list[Any] | None = None
    for boundary in some(found, _MARKS_MAX):
        changed = with_mark(messages[boundary.position], partial(_mark, boundary.lifetime), text_type)
        if changed is not None:
            listed = list(messages) if listed is None else listed
            listed[boundary.position] = changed
    return listed


def _takes_marks(message: Any) -> bool:
    # What the model said comes back in blocks of other types, which take none.
    return isinstance(message, Mapping) and message.get("role") in ("system", "developer", "user", "tool")


def _mark(stated: Lifetime | float | None, block: Mapping[str, Any]) -> dict[str, Any] | None:
    if block.get("type") not in _BLOCKS or block.get("text") == "":
        return None
    mark = {"mode": "explicit"}
    # Half a day only for what was declared to matter longer: types' defaults are no such word.
    if stated == Lifetime.PERSISTENT or (not isinstance(stated, str | None) and stated > _HALF_HOUR_S):
        mark["ttl"] = "12h"
    return {**block, _MARK: mark}


OPENAI = Dialect(
    name="openai",
    stack="OpenAI",
    receives=(
        ("`prompt_cache_key`", "the program"),
        (
            "`prompt_cache_breakpoint`",
            "GPT-5.6 and later: after the system prompt, where this step's own messages begin, after "
            "documents and checkpoints; at most 3. `ttl` is `12h` where more than half an hour was stated",
        ),
    ),
    loses="graph, forecast, priority, deadline, most lifetimes",
    fields=_fields,
)
