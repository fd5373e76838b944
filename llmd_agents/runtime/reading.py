"""What a router reads of a call before it decides: the hint header, and the body where that is not enough.

Shared by every body of the runtime; nothing here knows of HTTP servers.
"""

import json
import logging
from typing import Any

import orjson

from llmd_agents.hints import (
    ACK_HEADER,
    Ack,
    Decoded,
    Link,
    Rejection,
    UnreadableHints,
    chain,
    decode_hints,
    encode_ack,
)

log = logging.getLogger("llmd_agents.runtime")


def read_hints(value: bytes | None) -> Decoded | None:
    """Returns what a hint header says; None without one. Whatever is wrong with it is in the result."""
    if value is None:
        return None
    try:
        return decode_hints(value)
    except UnreadableHints as error:
        return Decoded(None, (Rejection("hints", str(error)),))
    except Exception:
        # No header may ever fail a call, not even one that shows a fault of ours.
        log.exception("reading hints failed")
        return Decoded(None, (Rejection("hints", "cannot be read"),))


def read_chain(body: bytes) -> list[Link] | None:
    """Returns the chain of a body; None if it has none, which is for the engine to say."""
    try:
        value = _parse(body)
        return chain(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def is_plain_json_object(body: bytes) -> bool:
    """Returns whether a body is what every JSON reader takes for the same object: UTF-8, in braces, no NUL
    (which UTF-16 and UTF-32 are full of)."""
    text = body.strip(b" \t\r\n")
    if not (text.startswith(b"{") and text.endswith(b"}")) or b"\0" in text:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def ack_header(ack: Ack | None) -> list[tuple[bytes, bytes]]:
    """Returns the response headers that carry an ack; none without one."""
    return [] if ack is None else [(ACK_HEADER.encode(), encode_ack(ack).encode("ascii"))]


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Slower, but it reads what clients in Python may write: lone surrogates and NaN.
        return json.loads(body)
