"""The order in which things are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from .access import find_models, first_call
from .body_checks import check_bodies, check_headers
from .cache_checks import check_cache
from .engine_checks import check_engine
from .finding import Diagnosis, Finding, Unusable, Verdict
from .hint_checks import check_bad_headers, check_events, check_header, say_goodbye
from .probe import Probe
from .route_checks import check_routes
from .server import Server

CALLS_TYPICAL: Final = 15
CALLS_MAX: Final = 26
PROMPT_TOKENS_TYPICAL: Final = 8_000


def diagnose(
    base_url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    timeout: float = 30.0,
    on_finding: Callable[[Finding], None] = lambda _: None,
) -> Diagnosis:
    """Tries what a server does with hints, by at most `CALLS_MAX` short model calls.

    Args:
        base_url: as for an OpenAI client.
        model: the first one that the server lists by default.
        timeout: seconds for one answer.
        on_finding: is told of everything as it is seen.

    Raises:
        Unusable: if the server cannot be reached or answers no plain call.
    """
    base = _checked(base_url)
    with httpx.Client(follow_redirects=False) as client:
        server = Server(client, base, api_key, timeout)
        facts = find_models(server, model) + first_call(server)
        probe = Probe()
        diagnosis = Diagnosis(_shown(server.base), server.model, probe.program.id, facts)
        for finding in _tried(server, probe, diagnosis):
            diagnosis.findings.append(finding)
            on_finding(finding)
        diagnosis.calls = server.calls
        diagnosis.prompt_tokens, diagnosis.output_tokens = server.prompt_tokens, server.output_tokens
        return diagnosis


def _tried(server: Server, probe: Probe, so_far: Diagnosis) -> Iterator[Finding]:
    yield from check_header(server, probe)
    yield from check_events(server, probe)
    yield from check_bad_headers(server)
    yield from check_headers(server, probe)
    yield from check_bodies(server, probe)
    yield from check_cache(server, takes_salt=so_far.verdict("body.cache_salt") is Verdict.ACCEPTED)
    yield from check_routes(server)
    yield from check_engine(server)
    if so_far.verdict("hints.events") is Verdict.HONOURED:
        say_goodbye(server, probe)


def _checked(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Unusable(f"--base-url: must be like http://host:8000/v1, not {base_url[:80]!r}", usage=True)
    return base_url.rstrip("/")


def _shown(base: str) -> str:
    """Returns a URL without the credentials that it may hold."""
    parts = urlsplit(base)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
