"""The contract's own carriers: header, ack, events, the view of a program."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from llmd_agents.hints import (
    ACK_HEADER,
    EVENTS_PATH,
    HINTS_HEADER,
    Ack,
    ProgramFinished,
    ToolFinished,
    ToolStarted,
    UnreadableHints,
    decode_ack,
    encode_events,
    encode_hints,
)

from .finding import Finding, Verdict
from .probe import Probe, short_prompt
from .server import Reply, Server, printable

GROUP: Final = "hints"

_EVENTS: Final = EVENTS_PATH.removeprefix("/v1")
_BAD_HEADERS: Final = (
    ("malformed", "a malformed hint header", 'v=1, program="'),
    ("oversized", "a hint header of 5,000 bytes", "v=1, " + "x" * 4995),
)


def check_header(server: Server, probe: Probe) -> Iterator[Finding]:
    """Sends hints with a call and reads the ack; one call."""
    messages = short_prompt()
    header = encode_hints(probe.hints(server.model, messages))
    reply = server.chat(messages, headers={HINTS_HEADER: header})
    yield Finding("hints.header", GROUP, HINTS_HEADER, *_header(reply))


def _header(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    value = reply.headers.get(ACK_HEADER)
    if value is None:
        return Verdict.ACCEPTED, f"the call succeeds, without {ACK_HEADER}: nobody says that they are read"
    try:
        ack = decode_ack(value)
    except UnreadableHints as error:
        return Verdict.ACCEPTED, printable(f"{ACK_HEADER} of another kind: {error}")
    return (Verdict.HONOURED if "program" in ack.accepted else Verdict.IGNORED), _told(ack)


def _told(ack: Ack) -> str:
    parts = [
        (name, ", ".join(members))
        for name, members in (
            ("accepted", ack.accepted),
            ("clipped", [f"{one.hint} ({one.reason})" for one in ack.clipped]),
            ("rejected", [f"{one.hint} ({one.reason})" for one in ack.rejected]),
            ("ignored", ack.ignored),
        )
    ]
    told = [f"{name} {members}" for name, members in parts if members]
    return printable("; ".join(told + ["asks for resync"] * ack.resync))


def check_bad_headers(server: Server) -> Iterator[Finding]:
    """Sends headers that are no hints: the call must succeed all the same. Two calls."""
    for key, title, value in _BAD_HEADERS:
        reply = server.chat(headers={HINTS_HEADER: value})
        yield Finding(f"hints.{key}", GROUP, title, *_bad_header(reply))


def _bad_header(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    try:
        rejected = decode_ack(reply.headers.get(ACK_HEADER, "")).rejected
    except UnreadableHints:
        rejected = ()
    if rejected:
        return Verdict.HONOURED, printable(f"the call succeeds, and the ack says: {rejected[0].reason}")
    return Verdict.ACCEPTED, "the call succeeds"


def check_events(server: Server, probe: Probe) -> Iterator[Finding]:
    """Posts two events about the probe's program, and looks at the program; no model call."""
    program, now = probe.program.id, time.time()
    body = encode_events(
        [
            ToolStarted(program=program, at=now, call="t1", tool="probe", expected=1),
            ToolFinished(program=program, at=now, call="t1", tool="probe"),
        ]
    )
    yield Finding("hints.events", GROUP, f"POST {_EVENTS}", *_events(server.ask("POST", _EVENTS, body)))
    path = f"/agent/programs/{quote(program)}"
    yield Finding(
        "hints.program", GROUP, "GET /agent/programs/…", *_program(server.ask("GET", path), program)
    )


def _events(reply: Reply) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    accepted, rejected = reply.object.get("accepted"), reply.object.get("rejected")
    if not isinstance(accepted, int) or not isinstance(rejected, list):
        return Verdict.ACCEPTED, f"{reply.status}, but no answer of the contract's form"
    if accepted:
        return Verdict.HONOURED, f"{accepted} of 2 events used"
    return Verdict.IGNORED, printable(f"no event used: {rejected[0] if rejected else 'no reason given'}")


def _program(reply: Reply, program: str) -> tuple[Verdict, str]:
    if not reply.ok:
        return reply.failure, reply.message
    if reply.object.get("id") != program or not isinstance(steps := reply.object.get("steps"), list):
        return Verdict.ABSENT, "answers with something else"
    return Verdict.HONOURED, f"shows the probe's program, {len(steps)} step{'s' * (len(steps) != 1)}"


def say_goodbye(server: Server, probe: Probe) -> None:
    """Tells a server that takes events that the probe's context is dead."""
    server.ask("POST", _EVENTS, encode_events([ProgramFinished(program=probe.program.id, at=time.time())]))
