"""What to do about a server, in a few sentences; only from what was seen of it."""

from __future__ import annotations

from llmd_agents.hints.providers import is_openai

from .finding import Diagnosis, Verdict


def advice(found: Diagnosis) -> list[str]:
    """Returns what to switch on and what to leave off, the most useful first."""
    told = [_hints(found)]
    if (
        found.verdict("hints.malformed") is Verdict.REFUSED
        or found.verdict("hints.oversized") is Verdict.REFUSED
    ):
        told.append(
            "A bad hint header makes calls fail here: the proxy in front should let headers of 2 KiB pass."
        )
    if (
        found.verdict("hints.header") is Verdict.HONOURED
        and found.verdict("hints.events") is not Verdict.HONOURED
    ):
        told.append("Events are not taken: tools, forks and ends are known only from the calls themselves.")
    told += _bodies(found)
    told += _cache(found)
    return told


def _hints(found: Diagnosis) -> str:
    header = found.verdict("hints.header")
    if header is Verdict.HONOURED:
        return "Hints are read here: instrument(client) is all it takes."
    if header is Verdict.REFUSED:
        return "Calls with hints fail here: do not instrument clients of this server."
    if header is Verdict.UNKNOWN:
        return "Whether hints are read here was not seen: try again."
    router = f"put the router in front: llmd-agents router --engine {found.base_url.removesuffix('/v1')}"
    if found.verdict("engine.directives") is Verdict.HONOURED:
        return f"This is an engine that takes directives; {router}"
    return (
        "Hints do no harm here, and nobody says that they are read. instrument(client) brings the report and "
        f"the linter; for more, {router}"
    )


def _bodies(found: Diagnosis) -> list[str]:
    told = []
    if is_openai(found.base_url) and found.verdict("body.openai") is Verdict.ACCEPTED:
        told.append("The dialect openai is on by itself for this server.")
    refused = found.keys("body.", Verdict.REFUSED)
    if refused := [name for name in refused if name != "unknown_member"]:
        told.append(f"Refused, so do not switch on: {', '.join(refused)}.")
    refused = found.keys("headers.", Verdict.REFUSED)
    if refused:
        told.append(f"Headers refused, so do not switch on: {', '.join(refused)}.")
    return told


def _cache(found: Diagnosis) -> list[str]:
    prefix = found.verdict("cache.prefix")
    if prefix is Verdict.HONOURED:
        return [
            "Prompts are cached here: keep each one a prefix of the next (llmd-agents lint tells where not)."
        ]
    if prefix is Verdict.IGNORED:
        return ["Nothing came from a prompt cache: is prefix caching on, and does one engine get both calls?"]
    if found.verdict("cache.reported") is Verdict.ABSENT:
        return [
            "Have the server tell cached tokens (vLLM: --enable-prompt-tokens-details): much builds on it."
        ]
    return []
