"""Text that changes by itself: times, random ids, counters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .divergence import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW = 48
"""Characters on each side of a divergence in which the volatile word around it is looked for."""

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"(?:mon|tue(?:s)?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_TIMES = (
    r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?)?"  # ISO 8601
    r"|\d{1,4}[/.]\d{1,2}[/.]\d{1,4}"
    r"|\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?(?:\s?[ap]m\b)?"
    rf"|\b{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?(?:\s\d{{4}})?"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th)?\s{_MONTH}(?:\s\d{{4}})?"
    rf"|\b{_MONTH}\s\d{{4}}\b|\b{_DAY}\b"
    r"|\b[12]\d{9}(?:\d{3}|\d{6}|\d{9})?(?:\.\d{1,9})?(?!\d)"  # Unix time: s, ms, µs or ns
)
_IDS = (
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|\b[0-9a-f]{8,64}\b"
    r"|\b[a-z]{2,12}[-_][a-z0-9]{6,64}\b"  # call_…, req-…
    r"|\b[a-z0-9]{16,64}\b"
)
_NUMBERS = r"\d{1,20}(?:[.,]\d{1,20})?"


def volatile_cause(before: str, at_before: int, after: str, at_after: int) -> Cause | None:
    """Tells what changed if, in both texts, a time, a random id or a number stands at the divergence.

    Args:
        at_before: index of the first differing character in `before`; as `at_after` in `after`.
    """
    for cause, pattern in ((Cause.TIMESTAMP, _TIMES), (Cause.RANDOM_ID, _IDS), (Cause.NUMBER, _NUMBERS)):
        if any(
            _same_place(one, at_before, other, at_after)
            and (cause is not Cause.RANDOM_ID or (_has_digit(one.group()) and _has_digit(other.group())))
            for one in _around(pattern, before, at_before)
            for other in _around(pattern, after, at_after)
        ):
            return cause
    return None


def _around(pattern: str, text: str, at: int) -> Iterator[re.Match[str]]:
    start = max(at - _WINDOW, 0)
    # Compiled where a prompt first diverges, not on import: most programs never get here.
    for match in re.compile(pattern, re.IGNORECASE).finditer(text, start, at + _WINDOW):
        if match.start() <= at <= match.end():
            yield match


def _same_place(one: re.Match[str], at_one: int, other: re.Match[str], at_other: int) -> bool:
    return one.start() - at_one == other.start() - at_other and one.group() != other.group()


def _has_digit(text: str) -> bool:
    return any(char.isdigit() for char in text)
