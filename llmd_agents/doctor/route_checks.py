"""Other routes by which model calls are made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from .finding import Finding, Verdict
from .server import Reply, Server, usage_of

GROUP: Final = "routes"
_OUTPUT_TOKENS: Final = 16
"""The least that OpenAI's Responses take."""


def check_routes(server: Server) -> Iterator[Finding]:
    """Tries streaming, completions and Responses; up to four calls. Stored responses are deleted again."""
    yield Finding("routes.stream", GROUP, "streams, with usage", *_stream(server))
    reply = server.call("/completions", {"prompt": "Say ok.", "max_tokens": 1})
    yield Finding("routes.completions", GROUP, "completions", *_shaped(reply, "choices"))
    first = server.call("/responses", {"input": "Say ok.", "max_output_tokens": _OUTPUT_TOKENS})
    yield Finding("routes.responses", GROUP, "responses", *_shaped(first, "output"))
    response_id = first.object.get("id")
    if not first.ok or not isinstance(response_id, str):
        return
    second = server.call(
        "/responses",
        {"input": "Again.", "previous_response_id": response_id, "max_output_tokens": _OUTPUT_TOKENS},
    )
    yield Finding("routes.lineage", GROUP, "previous_response_id", *_lineage(second, response_id))
    for stored in (second.object.get("id"), response_id):
        if isinstance(stored, str):
            server.ask("DELETE", f"/responses/{quote(stored, safe='')}")


def _stream(server: Server) -> tuple[Verdict, str]:
    reply = server.chat(fields={"stream": True, "stream_options": {"include_usage": True}})
    if not reply.ok:
        return reply.failure, reply.message
    chunks = list(_chunks(reply.body))
    usage = next((found for chunk in reversed(chunks) if (found := usage_of(chunk)) is not None), None)
    if usage is not None:
        server.prompt_tokens += usage[0]
        server.output_tokens += usage[1]
        return Verdict.HONOURED, f"{len(chunks)} chunks, the last with usage"
    if chunks:
        return Verdict.IGNORED, f"{len(chunks)} chunks, none with usage"
    return Verdict.IGNORED, "the answer is no stream of events"


def _chunks(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        if line.startswith(b"data:"):
            try:
                chunk = json.loads(line[5:])
            except (ValueError, RecursionError):
                continue
            if isinstance(chunk, dict):
                yield chunk


def _shaped(reply: Reply, member: str) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    if not isinstance(reply.object.get(member), list):
        return Verdict.ABSENT, "answers with something else"
    return Verdict.HONOURED, "the call succeeds"


def _lineage(reply: Reply, response_id: str) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    if reply.object.get("previous_response_id") == response_id:
        return Verdict.HONOURED, "the answer continues the stored one"
    return Verdict.ACCEPTED, "the answer does not say what it continues"
