"""Ids of programs and of what happens in them."""

import itertools
import re
import secrets


def slug(name: str) -> str:
    """Returns a form of a name that may stand in an id; at most 32 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-") or "unnamed"


def program_id(name: str) -> str:
    """Returns a new id that begins with a readable form of the workflow's name."""
    return f"{slug(name)}-{secrets.token_hex(6)}"


class Counter:
    """Numbers things of one kind within a program: s1, s2, … (safe to call from several threads)."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}{next(self._numbers)}"
