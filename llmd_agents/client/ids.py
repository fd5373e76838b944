"""Ids of programs and of what happens in them."""

import itertools
import os
import re
import secrets
import time


def slug(name: str) -> str:
    """Returns a form of a name that may stand in an id; at most 32 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-") or "unnamed"


def program_id(name: str) -> str:
    """Returns a new id that begins with a readable form of the workflow's name."""
    return f"{slug(name)}-{token(6)}"


def token(size: int) -> str:
    """Returns `size` random bytes in hexadecimal; of the clock where the system has no randomness."""
    try:
        return secrets.token_hex(size)
    except (OSError, NotImplementedError):
        return f"{time.time_ns() ^ os.getpid() << 48:032x}"[-2 * size :]


# What a forked child puts before ids of what began before the fork: it shares the parent's counters there,
# but counts by itself.
_of_this_process = ""


def _distinguish_child() -> None:
    global _of_this_process
    _of_this_process = f"{token(4)}."


def take_parents_place() -> None:
    """Lets a forked child count on as its parent would, where the parent does not: a simulation's, that forks
    to see what else may become of it."""
    global _of_this_process
    _of_this_process = ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_distinguish_child)


class Counter:
    """Numbers things of one kind within a program: s1, s2, … (safe to call from several threads)."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._process = _of_this_process

    def next(self) -> str:
        own = "" if self._process == _of_this_process else _of_this_process
        return f"{own}{self._prefix}{next(self._numbers)}"
