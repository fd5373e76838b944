"""Request bodies: what the router adds to them, by splicing before the closing brace, never by rewriting."""

import json
from typing import Any

import msgspec
import orjson


class _StreamFields(msgspec.Struct):
    stream: Any = None
    stream_options: Any = None


class _Lineage(msgspec.Struct):
    previous_response_id: Any = None


_decode = msgspec.json.Decoder(_StreamFields).decode
_decode_lineage = msgspec.json.Decoder(_Lineage).decode


def splice(body: bytes, fields: dict[str, Any]) -> bytes:
    """Returns the body of a JSON object with one or more fields added.

    They override fields of the same name, because JSON readers keep the last of several equal keys.
    """
    end = body.rindex(b"}")
    separator = b"" if body[:end].rstrip().endswith(b"{") else b","
    return body[:end] + separator + orjson.dumps(fields)[1:]


def asking_for_usage(body: bytes) -> tuple[bytes, bool]:
    """Makes a streaming request report its token counts.

    Returns the body to send, and whether the extra chunk must be kept from the client, who had not asked.
    """
    if b'"stream"' not in body:
        return body, False
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body, False
    options = fields.stream_options
    if fields.stream is not True or not isinstance(options, dict | None):
        return body, False
    if options is not None and options.get("include_usage"):
        return body, False
    return splice(body, {"stream_options": {**(options or {}), "include_usage": True}}), True


def previous_response(body: bytes) -> str | None:
    """Returns the id of the response that a Responses call continues."""
    try:
        previous = _decode_lineage(body).previous_response_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            # Slower, but it reads whatever an engine in Python may read.
            value = json.loads(body)
        except (ValueError, RecursionError):
            return None
        previous = value.get("previous_response_id") if isinstance(value, dict) else None
    return previous if isinstance(previous, str) else None
