"""Canonical bytes of JSON values: one byte string for equal values, whatever library wrote the JSON.

The encoding is bencode with three more types (see `docs/digests.md`, which is the specification):

    string         <length in bytes>:<UTF-8 bytes>
    integer        i <decimal> e
    other number   r <IEEE 754 double, big-endian>
    array          l <items> e
    object         d <key, value, key, value, …> e, keys sorted by their UTF-8 bytes
    null, true, false                n, t, f

A number is an integer if its value is one and its magnitude is less than 2^53, however it was written, so
that JSON libraries with and without integers agree (from 2^53 on, one that reads doubles tells neighbours
no longer apart). Unlike canonical JSON this needs no escaping: the text of a
long message is hashed as it is.
"""

import struct
from collections.abc import Mapping
from typing import Any

_EXACT = 2**53
ADVISORY_KEYS = frozenset({"cache_control", "prompt_cache_breakpoint"})
"""Cache marks of other vendors: advice that moves from turn to turn, and no part of the prompt."""


def canonical(value: Any) -> bytes:
    """Returns the canonical bytes of a JSON value.

    Raises:
        TypeError: if `value` holds something that JSON cannot.
        RecursionError: if it is nested deeper than Python recurses.
    """
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def canonical_message(message: Mapping[str, Any]) -> bytes:
    """Returns the canonical bytes of one chat message (or tool definition).

    Members that are null or a vendor's cache mark are left out, in the message and in its content parts.
    """
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str) and isinstance(role := message.get("role"), str):
        text = _utf8(content)
        who = _utf8(role)
        return b"d7:content%d:%s4:role%d:%se" % (len(text), text, len(who), who)
    kept = _without_advice(message)
    if isinstance(content, list | tuple):
        kept["content"] = [_without_advice(part) if isinstance(part, Mapping) else part for part in content]
    return canonical(kept)


def _without_advice(members: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None and key not in ADVISORY_KEYS}


def _utf8(text: str) -> bytes:
    # JSON may escape lone surrogates; they are kept so that every JSON string has canonical bytes.
    return text.encode("utf-8", "surrogatepass")


def _write_string(text: str, parts: list[bytes]) -> None:
    data = _utf8(text)
    parts.append(b"%d:" % len(data))
    parts.append(data)


def _write(value: Any, parts: list[bytes]) -> None:
    if isinstance(value, str):
        _write_string(value, parts)
    elif value is None:
        parts.append(b"n")
    elif isinstance(value, bool):
        parts.append(b"t" if value else b"f")
    elif isinstance(value, int | float):
        parts.append(_number(value))
    elif isinstance(value, Mapping):
        parts.append(b"d")
        for key, member in sorted((_utf8(key), member) for key, member in value.items()):
            parts.append(b"%d:" % len(key))
            parts.append(key)
            _write(member, parts)
        parts.append(b"e")
    elif isinstance(value, list | tuple):
        parts.append(b"l")
        for item in value:
            _write(item, parts)
        parts.append(b"e")
    else:
        raise TypeError(f"{type(value).__name__} is not a JSON type")


def _number(value: int | float) -> bytes:
    if -_EXACT < value < _EXACT and value == int(value):
        return b"i%de" % int(value)
    try:
        double = float(value)
    except OverflowError:
        double = float("inf") if value > 0 else float("-inf")
    return b"r" + struct.pack(">d", double)
