"""What an engine of ours, or a router, offers beside model calls; only looked at, never driven."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from llmd_agents.hints import KV_PATH, RESIDENCY_PATH, EngineKv, ResidencyBatch

from .finding import Finding, Verdict
from .server import BODY_MAX_BYTES, Reply, Server, printable

GROUP: Final = "engine"
_ENGINES: Final = "/agent/engines"


def check_engine(server: Server) -> Iterator[Finding]:
    """Looks for a router's engines, an engine's directives and its residency events; no model call."""
    engines = server.ask("GET", _ENGINES)
    yield Finding("engine.router", GROUP, f"GET {_ENGINES}", *_router(engines))
    path = KV_PATH.removeprefix("/v1")
    yield Finding("engine.directives", GROUP, f"GET {path}", *_directives(server.ask("GET", path)))
    path = RESIDENCY_PATH.removeprefix("/v1")
    first = server.ask("GET", path, headers={"accept": "text/event-stream"}, until=b"\n\n")
    yield Finding("engine.residency", GROUP, f"GET {path}", *_residency(first))


def _router(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    engines = reply.object.get("engines")
    if not isinstance(engines, list):
        return Verdict.ABSENT, "answers with something else"
    return Verdict.HONOURED, f"a router in front of {len(engines)} engine{'s' * (len(engines) != 1)}"


def _directives(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    try:
        kv = EngineKv.model_validate_json(reply.body)
    except ValidationError:
        return Verdict.ABSENT, "answers with something else"
    tiers = ", ".join(f"{name} {tokens:,} tokens" for name, tokens in kv.tiers.items())
    return Verdict.HONOURED, printable(f"takes {', '.join(kv.directives) or 'none'}; {tiers}")


def _residency(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        return Verdict.ABSENT, "answers with something else"
    line = next((one for one in reply.body.splitlines() if one.startswith(b"data:")), b"")
    if len(reply.body) >= BODY_MAX_BYTES:
        return Verdict.ACCEPTED, "a stream of events whose first is too long to be read here"
    try:
        batch = ResidencyBatch.model_validate_json(line.removeprefix(b"data:"))
    except ValidationError:
        return Verdict.ACCEPTED, "a stream of events that begins with something else"
    return Verdict.HONOURED, f"a snapshot of {len(batch.changes):,} contexts"
