"""Reads HAR files, as browsers and intercepting proxies export them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .recorded import RecordedRequest, is_body, maybe_json, prompt_tokens, scope_of_headers


def har_requests(entries: Iterable[Any]) -> Iterator[RecordedRequest]:
    """Yields the model calls among the entries, in the order in which they were started."""
    calls = [entry for entry in entries if isinstance(entry, Mapping)]
    for entry in sorted(calls, key=lambda one: str(one.get("startedDateTime", ""))):
        request = entry.get("request")
        if not isinstance(request, Mapping) or request.get("method") != "POST":
            continue
        body = maybe_json(_text(request.get("postData")))
        if isinstance(body, Mapping) and is_body(body):
            response = entry.get("response")
            content = response.get("content") if isinstance(response, Mapping) else None
            tokens = prompt_tokens(maybe_json(_text(content)))
            yield RecordedRequest(scope_of_headers(request.get("headers")), body, tokens)


def _text(content: Any) -> str:
    text = content.get("text") if isinstance(content, Mapping) else None
    if not isinstance(text, str):
        return ""
    if content.get("encoding") != "base64":
        return text
    try:
        return base64.b64decode(text).decode()
    except ValueError:
        return ""
