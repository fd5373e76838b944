"""Reads hint headers in the one form in which `encode_hints` writes them, several times faster than others.

That form is a regular expression: members and parameters in their order, one space after a comma, no escapes.
What it finds is validated as all hints are; a header that differs in the least is not read here.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from .header_members import MEMBERS, SEGMENT, Description, declared_by
from .models import Hints


def _form(prefix: str, described: Description) -> str:
    params = (f"(?:;{name}={part.form})?" for name, part in described.params.items())
    return prefix + described.value.form + "".join(params)


def _parts(described: Description) -> list[tuple[str, Callable[[str], Any]]]:
    return [(part.field, part.read) for part in (described.value, *described.params.values())]


_SEGMENT_PARTS: Final = _parts(SEGMENT)
_PARTS: Final = [(name, *part) for name, described in MEMBERS.items() for part in _parts(described)]


# Compiled when first used, as clients read no hints.
@cache
def _header() -> re.Pattern[str]:
    (first, described), *others = MEMBERS.items()
    forms = (f"(?:{_form(f', {name}=', other)})?" for name, other in others)
    return re.compile(_form(f"{first}=", described) + "".join(forms))


@cache
def _segment_form() -> re.Pattern[str]:
    return re.compile(_form("", SEGMENT))


def read_as_written(header: str) -> Hints | None:
    """Returns what the header declares; None where it is of another form, or holds anything bad."""
    form = _header().fullmatch(header)
    if form is None:
        return None
    members: dict[str, dict[str, Any]] = {}
    try:
        for (name, field, read), text in zip(_PARTS, form.groups(), strict=True):
            if text is not None:
                members.setdefault(name, {})[field] = read(text)
        if "segments" in members:
            members["segments"]["segments"] = [
                _segment(text) for text in members["segments"]["segments"].split(" ")
            ]
        return Hints.model_validate(declared_by(members))
    except (ValueError, LookupError):
        return None


def _segment(text: str) -> dict[str, Any]:
    form = _segment_form().fullmatch(text)
    if form is None:
        raise ValueError("is not a segment as it is written")
    parts = zip(_SEGMENT_PARTS, form.groups(), strict=True)
    return {field: read(text) for (field, read), text in parts if text is not None}
