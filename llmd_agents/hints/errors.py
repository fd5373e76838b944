"""Errors of the contract.

    ValueError
    ├── HintsTooLong        you declared more than fits, even after truncation
    ├── UnreadableHints     the peer's header is not a hint header at all
    └── UnreadableContext   the request body has no chain (in `digest`)

A field with a bad value raises pydantic's ValidationError where the model is built; it names the field.
"""

from .digest import UnreadableContext

__all__ = ["HintsTooLong", "UnreadableContext", "UnreadableHints"]


class HintsTooLong(ValueError):
    """Even the shortest form of the hints exceeds the header's limit."""


class UnreadableHints(ValueError):
    """The value is not a hint header: not a structured field, too long, or of an unknown version."""
