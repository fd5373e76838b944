"""Reads OpenTelemetry spans of model calls that carry their messages (GenAI conventions).

Both as OTLP's JSON (`resourceSpans`) and as a plain list of spans with an object of attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .recorded import RecordedRequest, maybe_json

_MESSAGES = "gen_ai.input.messages"
_SYSTEM = "gen_ai.system_instructions"
_TOOLS = "gen_ai.tool.definitions"


def is_span_document(document: Mapping[str, Any]) -> bool:
    return any(isinstance(document.get(name), list) for name in ("resourceSpans", "spans")) or (
        "attributes" in document and _MESSAGES in _attributes(document["attributes"])
    )


def span_requests(document: Mapping[str, Any]) -> Iterator[RecordedRequest]:
    """Yields the model calls among the spans, in the order in which they were started."""
    for span in sorted(_spans(document), key=_start):
        attributes = _attributes(span.get("attributes"))
        messages = maybe_json(attributes.get(_MESSAGES))
        if not isinstance(messages, list):
            continue
        body: dict[str, Any] = {
            "model": attributes.get("gen_ai.request.model"),
            "messages": [_message(message) for message in messages],
        }
        if (system := maybe_json(attributes.get(_SYSTEM))) is not None:
            body["system"] = [_part(part) for part in system] if isinstance(system, list) else system
        if isinstance(tools := maybe_json(attributes.get(_TOOLS)), list):
            body["tools"] = tools
        tokens = attributes.get("gen_ai.usage.input_tokens")
        yield RecordedRequest(_scope(span, attributes), body, tokens if isinstance(tokens, int) else None)


def _spans(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for resource in document.get("resourceSpans") or ():
        for scope in resource.get("scopeSpans") or ():
            yield from scope.get("spans") or ()
    yield from document.get("spans") or ()
    if "attributes" in document:
        yield document


def _start(span: Mapping[str, Any]) -> str:
    # ISO 8601, or nanoseconds as a number or in a string: each sorts within itself once padded.
    return str(span.get("startTimeUnixNano") or span.get("start_time") or "").rjust(32, "0")


def _scope(span: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    named = attributes.get("gen_ai.conversation.id")
    if named is None:
        named = next((value for key, value in attributes.items() if key.endswith("session.id")), None)
    if named is None:
        named = span.get("traceId") or span.get("trace_id")
    return str(named or "")


def _attributes(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, list):
        return {}
    return {str(one.get("key")): _value(one.get("value")) for one in given if isinstance(one, Mapping)}


def _value(value: Any) -> Any:
    """Returns an OTLP AnyValue as plain JSON."""
    if not isinstance(value, Mapping):
        return value
    if "intValue" in value:
        return int(value["intValue"])
    if isinstance(items := value.get("arrayValue"), Mapping):
        return [_value(item) for item in items.get("values") or ()]
    if isinstance(items := value.get("kvlistValue"), Mapping):
        return _attributes(items.get("values"))
    return next(iter(value.values()), None)


def _message(message: Any) -> Any:
    if not isinstance(message, Mapping) or not isinstance(parts := message.get("parts"), list):
        return message
    kept = {key: value for key, value in message.items() if key not in ("parts", "finish_reason")}
    return {**kept, "content": [_part(part) for part in parts]}


def _part(part: Any) -> Any:
    """Returns a part of the conventions as the part of a request that it stands for."""
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part.get("content")}
    if kind == "reasoning":
        return {"type": "thinking", "thinking": part.get("content")}
    if kind == "tool_call":
        return {**part, "type": "tool_use", "input": part.get("arguments")}
    if kind == "tool_call_response":
        content = part.get("response", part.get("result"))
        return {"type": "tool_result", "tool_use_id": part.get("id"), "content": content}
    return part
