"""Reads recorded traffic: request bodies in any of the forms in which people have them.

Told apart by their shape, not by their file's name: one JSON document (an array of bodies, a HAR file, a file
of OpenTelemetry spans, a coding-agent session), or JSON lines, where each line is any of these, a bare body,
or a body in an envelope. Lines are read one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from .har import har_requests
from .recorded import (
    Recorded,
    RecordedBlocks,
    RecordedRequest,
    is_body,
    maybe_json,
    prompt_tokens,
    scope_of_headers,
)
from .spans import is_span_document, span_requests

if TYPE_CHECKING:
    from pathlib import Path

_SCOPES = (
    "branch",
    "branch_id",
    "conversation_id",
    "conversation",
    "session_id",
    "session",
    "thread_id",
    "trace_id",
)
_ENVELOPES = ("body", "request_body", "request", "json", "kwargs")
_OTHER_ROUTES = ("/embeddings", "/moderations", "/audio/", "/images/", "/files", "/agent/events")
_DEPTH_MAX = 4


class BadTraffic(ValueError):
    """The file cannot be read; the message is one line that names it, the line and what is wrong."""


def read_traffic(
    stream: IO[bytes], name: str, advance: Callable[[int], None] = lambda size: None
) -> Iterator[Recorded]:
    """Yields the requests of one file, in its order.

    Args:
        name: of the file, for messages.
        advance: is told of bytes as they have been read.

    Raises:
        BadTraffic: if it is not JSON, or no part of it is a recorded request.
    """
    found = False
    for where, document in _documents(stream, name, advance):
        try:
            for recorded in _requests(document, "", 0):
                found = True
                yield recorded
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise BadTraffic(f"{where}: {error}") from None
    if not found:
        raise BadTraffic(
            f"{name}: no recorded request in it; expected request bodies (JSON lines), a HAR file or spans "
            "with gen_ai.input.messages"
        )


def open_traffic(path: Path) -> IO[bytes]:
    """Opens a file.

    Raises:
        BadTraffic: if that fails.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise BadTraffic(f"{path}: {error.strerror}") from None


def _documents(stream: IO[bytes], name: str, advance: Callable[[int], None]) -> Iterator[tuple[str, Any]]:
    numbered = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
    try:
        first = True
        for number, line in numbered:
            where = f"{name}, line {number}"
            try:
                document = _parsed(line)
            except ValueError as error:
                if not first:
                    raise BadTraffic(f"{where}: not JSON: {_problem(error)}") from None
                # One document over many lines.
                line += b"".join(more for _, more in numbered)
                where, document = name, _whole(line, name, number)
            first = False
            advance(len(line))
            yield where, document
    except OSError as error:
        raise BadTraffic(f"{name}: {error.strerror}") from None


def _whole(text: bytes, name: str, first_line: int) -> Any:
    try:
        return _parsed(text)
    except ValueError as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        raise BadTraffic(f"{name}, line {line}: not JSON: {_problem(error)}") from None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _problem(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start:,} is not UTF-8"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _requests(document: Any, scope: str, depth: int) -> Iterator[Recorded]:
    if depth > _DEPTH_MAX:
        return
    if isinstance(document, list):
        for item in document:
            yield from _requests(item, scope, depth + 1)
    if not isinstance(document, Mapping):
        return
    if isinstance(log := document.get("log"), Mapping) and isinstance(log.get("entries"), list):
        yield from har_requests(log["entries"])
    elif is_span_document(document):
        yield from span_requests(document)
    elif "block_size" in document and isinstance(document.get("requests"), list):
        yield from _sessions(document)
    elif is_body(document):
        yield RecordedRequest(_scope(document) or scope, document, prompt_tokens(document))
    elif _is_of_a_prompt(document):
        scope = _scope(document) or scope
        tokens = prompt_tokens(document)
        for name in _ENVELOPES:
            inner = maybe_json(document.get(name))
            if isinstance(inner, Mapping) and is_body(inner):
                yield RecordedRequest(scope, inner, tokens)
                return
            if isinstance(inner, Mapping):
                yield from _requests(inner, scope, depth + 1)


def _is_of_a_prompt(record: Mapping[str, Any]) -> bool:
    path = record.get("path") or record.get("url") or ""
    method = record.get("method") or "POST"
    return method == "POST" and not any(route in str(path) for route in _OTHER_ROUTES)


def _scope(record: Mapping[str, Any]) -> str:
    if hinted := scope_of_headers(record.get("headers")):
        return hinted
    named = [str(value) for name in _SCOPES if isinstance(value := record.get(name), str | int)]
    return "/".join(dict.fromkeys(named))


def _sessions(document: Mapping[str, Any]) -> Iterator[RecordedBlocks]:
    size = document["block_size"]
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"block_size is {size!r}, not a number of tokens")
    name = str(document.get("id", ""))
    for record in document["requests"]:
        nested = record.get("requests")
        scope = f"{name}/{record.get('agent_id', '')}" if nested else name
        for request in nested or [record]:
            if isinstance(ids := request.get("hash_ids"), list):
                yield RecordedBlocks(scope, str(request.get("model", "")), size, tuple(ids))
