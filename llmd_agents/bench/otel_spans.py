"""Reader of OpenTelemetry spans: as the SDK prints them, as OTLP/JSON, or as a plain list.

A file holds one JSON document or many one after another, as exporters write them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

from .coding_sessions import BadTrace

_SPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Span:
    """One span; times are Unix seconds."""

    trace: str
    id: str
    name: str
    started: float
    ended: float
    attributes: Mapping[str, Any]


def read_documents(path: Path) -> list[Any]:
    """Reads a file of JSON documents.

    Raises:
        BadTrace: if it cannot be read or holds anything else; the message is one line that names the file.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadTrace(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadTrace(f"{path}: not UTF-8: {error.reason}") from None
    decoder = json.JSONDecoder()
    documents: list[Any] = []
    at = _space(text, 0)
    while at < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, at) + 1
            raise BadTrace(f"{path}: not JSON, in what begins at line {line}: {error}") from None
        documents.append(document)
        at = _space(text, at)
    return documents


def _space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def spans_of(document: Any) -> Iterator[Span]:
    """Yields the spans of a document, in whatever of the three forms; what is no span is left out."""
    if isinstance(document, list):
        for one in document:
            yield from spans_of(one)
    elif isinstance(document, dict):
        if isinstance(document.get("resourceSpans"), list):
            for resource in _objects(document["resourceSpans"]):
                for scope in _objects(resource.get("scopeSpans")):
                    yield from spans_of(scope.get("spans"))
        elif isinstance(document.get("spans"), list):
            yield from spans_of(document["spans"])
        else:
            span = _span(document)
            if span is not None:
                yield span


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            yield one


def _span(record: dict[str, Any]) -> Span | None:
    context = record.get("context")
    ids = context if isinstance(context, dict) else record
    trace = ids.get("trace_id", ids.get("traceId"))
    span_id = ids.get("span_id", ids.get("spanId"))
    started = _time(record.get("start_time", record.get("startTimeUnixNano")))
    ended = _time(record.get("end_time", record.get("endTimeUnixNano")))
    if span_id is None or started is None or ended is None:
        return None
    attributes = _attributes(record.get("attributes"))
    return Span(str(trace), str(span_id), str(record.get("name")), started, max(started, ended), attributes)


def _time(value: Any) -> float | None:
    """Returns Unix seconds of ISO 8601, or of nanoseconds as a number or as its digits."""
    try:
        if isinstance(value, str) and not value.isdigit():
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return None if value is None else int(value) / 1e9
    except (ValueError, TypeError, OverflowError):
        return None


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return {str(one.get("key")): _any_value(one.get("value")) for one in _objects(value)}


def _any_value(value: Any) -> Any:
    """Returns what OTLP's AnyValue holds."""
    if not isinstance(value, dict):
        return None
    if "arrayValue" in value:
        array = value["arrayValue"]
        return [_any_value(one) for one in _objects(array.get("values") if isinstance(array, dict) else None)]
    if "intValue" in value:
        try:
            return int(value["intValue"])
        except (ValueError, TypeError):
            return None
    return next((value[name] for name in ("stringValue", "doubleValue", "boolValue") if name in value), None)
