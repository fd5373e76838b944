"""The request header `x-llmd-hints`: an RFC 9651 dictionary that fits 2 KiB.

    v=1, program="essay-7f3a";name="essay";priority=70, step="s12";branch="b3";kind="act",
    parents=("s11");join=all, fork="f1";index=3;width=8, loop="l1";iteration=2;limit=12,
    extends=:…:, segments=(:…:;t=turn;b=1234 …), next=tool;after=5.0;sigma=0.5, cut=("segments")

A member with a bad value is rejected alone; the others still count. `docs/hints.md` lists every member.
"""

from typing import Any, Final

from .defaults import DEFAULT_PRIORITY, ROOT_BRANCH
from .drafts import HintsDraft, SegmentDraft
from .errors import HintsTooLong, UnreadableHints
from .header_as_written import read_as_written
from .header_members import TYPE_TOKENS
from .header_reader import Decoded, Rejection, read_members
from .limits import HEADER_MAX_BYTES
from .models import (
    DEFAULT_LIFETIME,
    DEFAULT_SCOPE,
    Hints,
    Lifetime,
    Segment,
)
from .segments import merge_oldest
from .structured_field_parser import parse_dictionary
from .structured_field_writer import byte_sequence, decimal, integer, string

__all__ = ["HINTS_HEADER", "VERSION", "Decoded", "Rejection", "decode_hints", "encode_hints"]

HINTS_HEADER: Final = "x-llmd-hints"
VERSION: Final = 1

PARENTS_KEPT: Final = 8
"""Parents that remain of a longer list in a header that is still too long without its segments."""


def encode_hints(hints: Hints | HintsDraft, *, limit: int = HEADER_MAX_BYTES) -> str:
    """Returns the header value: ASCII, at most `limit` bytes.

    When it would be longer, new segments are merged (oldest first), then the forecast and the oldest parents
    are left out; `cut` names what was shortened.

    Raises:
        HintsTooLong: if even that does not fit.
    """
    value = _written(hints)
    if len(value) <= limit:
        return value
    if isinstance(hints, HintsDraft):
        hints = hints.checked()
    if len(hints.segments) > 1:
        hints = _cut(hints, "segments")
        others = _written(hints.model_copy(update={"segments": ()}))
        room = limit - len(others) - len(", segments=()")
        # Between two segments there is a space, so there is one less of those.
        merged = merge_oldest(hints.segments, lambda segment: len(_segment(segment)) + 1, room + 1)
        hints = hints.model_copy(update={"segments": merged})
        value = _written(hints)
    if len(value) > limit and hints.forecast is not None:
        hints = _cut(hints, "next", forecast=None)
        value = _written(hints)
    if len(value) > limit and len(hints.step.parents) > PARENTS_KEPT:
        step = hints.step.model_copy(update={"parents": hints.step.parents[-PARENTS_KEPT:]})
        value = _written(_cut(hints, "parents", step=step))
    if len(value) > limit:
        raise HintsTooLong(f"the hints need {len(value)} bytes, more than {limit}")
    return value


def _cut(hints: Hints, what: str, **changes: Any) -> Hints:
    if what not in hints.cut:
        changes["cut"] = (*hints.cut, what)
    return hints.model_copy(update=changes)


def _written(hints: Hints | HintsDraft) -> str:
    program, step = hints.program, hints.step
    members = [f"v={VERSION}, program={string(program.id)}"]
    if program.name:
        members.append(f";name={string(program.name)}")
    if program.priority != DEFAULT_PRIORITY:
        members.append(f";priority={integer(program.priority)}")
    if program.deadline is not None:
        members.append(f";deadline={decimal(program.deadline)}")
    members.append(f", step={string(step.id)}")
    if step.branch != ROOT_BRANCH:
        members.append(f";branch={string(step.branch)}")
    if step.kind:
        members.append(f";kind={string(step.kind)}")
    if step.model:
        members.append(f";model={string(step.model)}")
    if step.agent:
        members.append(f";agent={string(step.agent)}")
    if step.parents or step.join is not None:
        members.append(f", parents=({' '.join(map(string, step.parents))})")
        if step.join is not None:
            members.append(f";join={step.join if isinstance(step.join, str) else integer(step.join)}")
    if (fork := step.fork) is not None:
        members.append(f", fork={string(fork.id)};index={integer(fork.index)};width={integer(fork.width)}")
    if (loop := step.loop) is not None:
        members.append(f", loop={string(loop.id)};iteration={integer(loop.iteration)}")
        if loop.limit is not None:
            members.append(f";limit={integer(loop.limit)}")
    if hints.extends is not None:
        members.append(f", extends={byte_sequence(hints.extends)}")
    if hints.segments:
        members.append(f", segments=({' '.join(map(_segment, hints.segments))})")
    if (forecast := hints.forecast) is not None:
        members.append(f", next={forecast.next.value}")
        if forecast.after is not None:
            members.append(f";after={decimal(forecast.after)}")
        if forecast.sigma is not None:
            members.append(f";sigma={decimal(forecast.sigma)}")
        if forecast.fan_out is not None:
            members.append(f";width={integer(forecast.fan_out)}")
        if forecast.agent:
            members.append(f";agent={string(forecast.agent)}")
        if forecast.output_tokens is not None:
            members.append(f";tokens={integer(forecast.output_tokens)}")
    if hints.cut:
        members.append(f", cut=({' '.join(map(string, hints.cut))})")
    return "".join(members)


def _segment(segment: Segment | SegmentDraft) -> str:
    text = f"{byte_sequence(segment.digest)};t={TYPE_TOKENS[segment.type]};b={integer(segment.size)}"
    if segment.tokens is not None:
        text += f";n={integer(segment.tokens)}"
    lifetime, scope = segment.lifetime, segment.scope
    if lifetime is not None and lifetime != DEFAULT_LIFETIME[segment.type]:
        text += f";life={lifetime.value if isinstance(lifetime, Lifetime) else decimal(lifetime)}"
    if scope is not None and scope != DEFAULT_SCOPE[segment.type]:
        text += f";scope={scope.value}"
    if segment.merged > 1:
        text += f";merged={integer(segment.merged)}"
    return text


def decode_hints(value: str | bytes, *, limit: int = HEADER_MAX_BYTES) -> Decoded:
    """Reads a header value.

    Raises:
        UnreadableHints: if it is too long, no structured-field dictionary, or of another major version.
    """
    if len(value) > limit:
        raise UnreadableHints(f"{len(value)} bytes, more than {limit}")
    # What is not ASCII becomes a character that no structured field holds.
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if (hints := read_as_written(text)) is not None:
        return Decoded(hints)
    try:
        members = parse_dictionary(text)
    except ValueError as error:
        raise UnreadableHints(f"not a structured field: {error}") from None
    version = members.get("v", (VERSION, {}))[0]
    if version != VERSION or isinstance(version, bool):
        raise UnreadableHints(f"version {version!r} is not known (this is version {VERSION})")
    return read_members(members)
