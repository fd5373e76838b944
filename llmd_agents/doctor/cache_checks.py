"""Whether a prompt that was sent before is read from a cache, and whether the server says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .finding import Finding, Verdict
from .probe import long_prompt
from .server import Reply, Server

GROUP: Final = "prompt cache"
ATTEMPTS: Final = 2
"""Times that the prompt is sent again: behind several engines, or just after the first call, one may miss."""


def check_cache(server: Server, *, takes_salt: bool) -> Iterator[Finding]:
    """Sends one long prompt two or three times, and once under a `cache_salt` where that is accepted."""
    prompt = long_prompt()
    first = server.chat(prompt)
    if not first.ok:
        yield Finding("cache.reported", GROUP, "cached tokens are told", Verdict.UNKNOWN, first.message)
        return
    again, cached = first, None
    for _ in range(ATTEMPTS):
        again = server.chat(prompt)
        cached = _cached(again)
        if cached != 0:
            break
    told = _cached(first) is not None or cached is not None
    yield Finding(
        "cache.reported",
        GROUP,
        "cached tokens are told",
        Verdict.HONOURED if told else Verdict.ABSENT,
        "usage.prompt_tokens_details.cached_tokens" if told else "usage has no cached_tokens",
    )
    if not again.ok:
        found = Verdict.UNKNOWN, again.message
    elif not told:
        found = Verdict.UNKNOWN, "the server does not say what it reads from its cache"
    elif cached:
        found = Verdict.HONOURED, _share(again, cached)
    else:
        found = Verdict.IGNORED, f"nothing of a prompt that was sent {1 + ATTEMPTS} times came from a cache"
    yield Finding("cache.prefix", GROUP, "the same prompt again", *found)
    if cached and takes_salt:
        yield Finding("cache.salt", GROUP, "cache_salt keeps apart", *_salted(server, prompt))


def _salted(server: Server, prompt: list[dict[str, object]]) -> tuple[Verdict, str]:
    reply = server.chat(prompt, {"cache_salt": "llmd-agents-doctor"})
    if not reply.ok:
        return reply.failure, reply.message
    cached = _cached(reply)
    if cached is None:
        return Verdict.ACCEPTED, "cached_tokens is not told with it"
    if cached:
        return Verdict.IGNORED, f"under a salt, too: {_share(reply, cached)}"
    return Verdict.HONOURED, "nothing of the same prompt under a salt came from the cache"


def _cached(reply: Reply) -> int | None:
    usage = reply.usage if reply.ok else None
    return None if usage is None else usage[2]


def _share(reply: Reply, cached: int) -> str:
    usage = reply.usage
    return f"{cached:,} of {usage[0]:,} prompt tokens came from the cache" if usage is not None else ""
