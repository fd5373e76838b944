"""Errors of the contract.

    ValueError
    ├── HintsTooLong        you declared more than fits, even after truncation
    ├── UnreadableHints     the peer's header is not a hint header at all
    └── UnreadableContext   the request body has no chain (in `digest`)

A field with a bad value raises pydantic's ValidationError where the model is built; it names the field.
"""

from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from .context_items import UnreadableContext

__all__ = ["HintsTooLong", "UnreadableContext", "UnreadableHints", "first_problem"]


PROBLEM_MAX_CHARS: Final = 300


class HintsTooLong(ValueError):
    """Even the shortest form of the hints exceeds the header's limit."""


class UnreadableHints(ValueError):
    """The value is not a hint header: not a structured field, too long, or of an unknown version."""


def problems(error: ValidationError) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yields where each of pydantic's complaints is, and what it says, shortened: it may repeat its input."""
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        yield problem["loc"], problem["msg"].removeprefix("Value error, ")[:PROBLEM_MAX_CHARS]


def first_problem(error: ValidationError) -> str:
    """Returns the first of pydantic's complaints as one line: `field: what is wrong`."""
    where, message = next(problems(error))
    return f"{'.'.join(map(str, where))}: {message}" if where else message
