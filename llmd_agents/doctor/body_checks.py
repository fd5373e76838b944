"""What the server makes of other stacks' words: dialects' headers, dialects' bodies, single members."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from llmd_agents.hints.dialects import DIALECTS, Dialect, apply_body, apply_headers

from .finding import Finding, Verdict
from .probe import Probe, short_prompt
from .server import Reply, Server

HEADERS: Final = "headers of dialects"
BODIES: Final = "bodies of dialects"
MEMBERS: Final = "members of bodies"

_ANY_MEMBER: Final = "llmd_agents_probe"

_SINGLE: Final[dict[str, Any]] = {
    "priority": 1,
    "cache_salt": "llmd-agents-doctor",
    "kv_transfer_params": {_ANY_MEMBER: 1},
    "prompt_cache_key": "llmd-agents-doctor",
}
"""Members that no dialect sends by itself, or that are of use alone."""

_Tried: TypeAlias = tuple[str, str, str, dict[str, Any]]
"""Key, group, title and the members of the body."""

_ECHOES: Final = {"llm_d": "x-session-token"}
"""Response headers by which a stack shows that it has read a dialect's."""


def _for_clients(part: Callable[[Dialect], object]) -> list[str]:
    return [name for name, one in DIALECTS.items() if one.sender == "client" and part(one) is not None]


def check_headers(server: Server, probe: Probe) -> Iterator[Finding]:
    """Sends all dialects' headers with one call; each with its own only where that fails."""
    names = _for_clients(lambda one: one.headers)
    hints = probe.hints(server.model, short_prompt())
    together = server.chat(headers=apply_headers(names, hints))
    for name in names:
        headers = apply_headers([name], hints)
        reply = together if together.ok else server.chat(headers=headers)
        echo = _ECHOES.get(name)
        if not reply.ok:
            found = reply.failure, reply.message
        elif echo is not None and echo in reply.headers:
            found = Verdict.HONOURED, f"answers with {echo}"
        else:
            found = Verdict.ACCEPTED, ", ".join(headers)
        yield Finding(f"headers.{name}", HEADERS, DIALECTS[name].stack, *found)


def check_bodies(server: Server, probe: Probe) -> Iterator[Finding]:
    """Sends each dialect's body, and single members, with one call together; apart where that fails.

    One more call holds a member that nobody knows: where that is refused, what is accepted is known.
    """
    stranger = server.chat(fields={_ANY_MEMBER: 1})
    strict = not stranger.ok and stranger.failure is Verdict.REFUSED
    bodies, members = list(_dialect_bodies(server, probe)), list(_single_members())
    merged: dict[str, Any] = {}
    for _, _, _, fields in bodies + members:
        merged |= {name: value for name, value in fields.items() if name not in merged}
    # Where one unknown member is refused, so will be the lot of them.
    together = None if strict else server.chat(fields=merged)

    def found(tried: _Tried) -> Finding:
        key, group, title, fields = tried
        reply = together if together is not None and together.ok else server.chat(fields=fields)
        return Finding(key, group, title, *_of_body(reply, fields, strict=strict))

    yield from map(found, bodies)
    yield Finding("body.unknown_member", MEMBERS, "a member that nobody knows", *_of_stranger(stranger))
    yield from map(found, members)


def _of_stranger(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    return Verdict.ACCEPTED, "any member is let through, so to be accepted says little"


def _of_body(reply: Reply, fields: dict[str, Any], *, strict: bool) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    shown = _shown(fields)
    return Verdict.ACCEPTED, f"{shown}: known to the server" if strict else shown


def _shown(fields: dict[str, Any]) -> str:
    if "messages" in fields:
        marks = [mark for mark in ("cache_control", "prompt_cache_breakpoint") if mark in json.dumps(fields)]
        return ", ".join([*(name for name in fields if name != "messages"), *marks])
    return ", ".join(fields)


def _dialect_bodies(server: Server, probe: Probe) -> Iterator[_Tried]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, *short_prompt()]
    plain: dict[str, Any] = {"model": server.model, "messages": messages}
    for name in _for_clients(lambda one: one.fields):
        hints = probe.hints(server.model, messages)
        changed = apply_body([name], hints, plain)
        if changed is not None:
            fields = {key: value for key, value in changed.items() if value != plain.get(key)}
            yield f"body.{name}", BODIES, DIALECTS[name].stack, fields


def _single_members() -> Iterator[_Tried]:
    for name, value in _SINGLE.items():
        yield f"body.{name}", MEMBERS, name, {name: value}
