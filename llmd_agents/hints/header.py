"""The request header `x-llmd-hints`: an RFC 9651 dictionary that fits 2 KiB.

    v=1, program="essay-7f3a";name="essay";priority=70, step="s12";branch="b3";kind="act",
    parents=("s11");join=all, fork="f1";index=3;width=8, loop="l1";iteration=2;limit=12,
    extends=:…:, segments=(:…:;t=turn;b=1234 …), next=tool;after=5.0;sigma=0.5, cut=("segments")

A member with a bad value is rejected alone; the others still count. `docs/hints.md` lists every member.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import http_sf
from http_sf import DisplayString, StructuredFieldError, Token
from pydantic import TypeAdapter, ValidationError

from .errors import HintsTooLong, UnreadableHints, first_problem
from .limits import HEADER_MAX_BYTES
from .models import (
    DEFAULT_LIFETIME,
    DEFAULT_PRIORITY,
    DEFAULT_SCOPE,
    ROOT_BRANCH,
    Forecast,
    ForkPosition,
    Hints,
    Lifetime,
    LoopPosition,
    Program,
    Scope,
    Segment,
    SegmentType,
    Step,
)
from .segments import merge_oldest

HINTS_HEADER: Final = "x-llmd-hints"
VERSION: Final = 1

SEGMENT_MIN_BYTES: Final = 28
PARENTS_KEPT: Final = 8
"""Parents that remain of a longer list in a header that is still too long without its segments."""

_TYPE_TOKENS: Final = {
    SegmentType.SYSTEM_PROMPT: "system",
    SegmentType.TOOL_DEFINITION: "tool",
    SegmentType.DOCUMENT: "document",
    SegmentType.CONVERSATION_TURN: "turn",
    SegmentType.REASONING_BRANCH: "reasoning",
    SegmentType.CHECKPOINT: "checkpoint",
    SegmentType.SCRATCH: "scratch",
}
_TYPES: Final = {token: segment_type for segment_type, token in _TYPE_TOKENS.items()}
_CUT: Final = TypeAdapter(tuple[Literal["segments", "next", "parents"], ...])
_LIFETIMES: Final = {str(lifetime): lifetime for lifetime in Lifetime}
_SCOPES: Final = {str(scope): scope for scope in Scope}
_MEMBERS: Final = frozenset(
    ("v", "program", "step", "parents", "fork", "loop", "extends", "segments", "next", "cut")
)

Params: TypeAlias = Mapping[str, Any]
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Rejection:
    """One hint that was not accepted, and why, in words for the person who reads the ack."""

    hint: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What could be read of a header.

    Attributes:
        hints: None when program or step could not be read: then nothing else can be placed.
        rejected: members with bad values.
        ignored: members and parameters that this version does not know.
    """

    hints: Hints | None
    rejected: tuple[Rejection, ...] = ()
    ignored: tuple[str, ...] = ()


def encode_hints(hints: Hints, *, limit: int = HEADER_MAX_BYTES) -> str:
    """Returns the header value: ASCII, at most `limit` bytes.

    When it would be longer, new segments are merged (oldest first), then the forecast and the oldest parents
    are left out; `cut` names what was shortened.

    Raises:
        HintsTooLong: if even that does not fit.
    """
    # More segments than this cannot fit, as each costs at least its digest: they are not even tried.
    most = limit // SEGMENT_MIN_BYTES
    if len(hints.segments) > most:
        hints = _cut(hints, "segments", segments=merge_oldest(hints.segments, most))
    value = _serialize(hints)
    if len(value) <= limit:
        return value
    if hints.segments:
        hints, value = _with_fewer_segments(hints, limit)
    if len(value) > limit and hints.forecast is not None:
        hints = _cut(hints, "next", forecast=None)
        value = _serialize(hints)
    if len(value) > limit and len(hints.step.parents) > PARENTS_KEPT:
        step = hints.step.model_copy(update={"parents": hints.step.parents[-PARENTS_KEPT:]})
        value = _serialize(_cut(hints, "parents", step=step))
    if len(value) > limit:
        raise HintsTooLong(f"the hints need {len(value)} bytes, more than {limit}")
    return value


def _with_fewer_segments(hints: Hints, limit: int) -> tuple[Hints, str]:
    """Merges segments until the header fits or one is left; returns what it tried last."""
    room = limit - len(_serialize(_cut(hints, "segments", segments=())))
    most = max(1, min(len(hints.segments) - 1, room // SEGMENT_MIN_BYTES))
    while True:
        shorter = _cut(hints, "segments", segments=merge_oldest(hints.segments, most))
        value = _serialize(shorter)
        if len(value) <= limit or most == 1:
            return shorter, value
        most = max(1, most - max(1, (len(value) - limit) // 64))


def decode_hints(value: str | bytes, *, limit: int = HEADER_MAX_BYTES) -> Decoded:
    """Reads a header value.

    Raises:
        UnreadableHints: if it is too long, no structured-field dictionary, or of another major version.
    """
    data = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
    if len(data) > limit:
        raise UnreadableHints(f"{len(data)} bytes, more than {limit}")
    try:
        members = cast("dict[str, Any]", http_sf.parse(data, tltype="dictionary"))
    except (StructuredFieldError, ValueError, OverflowError) as error:
        raise UnreadableHints(f"not a structured field: {error}") from None
    version = members.get("v", (VERSION, {}))[0]
    if version != VERSION or isinstance(version, bool):
        raise UnreadableHints(f"version {version} is not known (this is version {VERSION})")
    return _Reader(members).read()


def _cut(hints: Hints, what: str, **changes: Any) -> Hints:
    if what not in hints.cut:
        changes["cut"] = (*hints.cut, what)
    return hints.model_copy(update=changes)


# --- writing


def _text(value: str) -> str | DisplayString:
    return value if value.isascii() else DisplayString(value)


def _params(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _segment_item(segment: Segment) -> tuple[bytes, dict[str, Any]]:
    lifetime = segment.lifetime
    if lifetime == DEFAULT_LIFETIME[segment.type]:
        lifetime = None
    return segment.digest, _params(
        t=Token(_TYPE_TOKENS[segment.type]),
        b=segment.size,
        n=segment.tokens,
        life=Token(lifetime) if isinstance(lifetime, Lifetime) else lifetime,
        scope=Token(segment.scope) if segment.scope not in (None, DEFAULT_SCOPE[segment.type]) else None,
        merged=segment.merged if segment.merged > 1 else None,
    )


def _serialize(hints: Hints) -> str:
    program, step, forecast = hints.program, hints.step, hints.forecast
    members: dict[str, Any] = {
        "v": VERSION,
        "program": (
            program.id,
            _params(
                name=_text(program.name) if program.name else None,
                priority=program.priority if program.priority != DEFAULT_PRIORITY else None,
                deadline=program.deadline,
            ),
        ),
        "step": (
            step.id,
            _params(
                branch=step.branch if step.branch != ROOT_BRANCH else None,
                kind=_text(step.kind) if step.kind else None,
                model=_text(step.model) if step.model else None,
                agent=_text(step.agent) if step.agent else None,
            ),
        ),
    }
    if step.parents or step.join is not None:
        join = Token(step.join) if isinstance(step.join, str) else step.join
        members["parents"] = (list(step.parents), _params(join=join))
    if (fork := step.fork) is not None:
        members["fork"] = (fork.id, {"index": fork.index, "width": fork.width})
    if (loop := step.loop) is not None:
        members["loop"] = (loop.id, _params(iteration=loop.iteration, limit=loop.limit))
    if hints.extends is not None:
        members["extends"] = hints.extends
    if hints.segments:
        members["segments"] = [_segment_item(segment) for segment in hints.segments]
    if forecast is not None:
        members["next"] = (
            Token(forecast.next),
            _params(
                after=forecast.after,
                sigma=forecast.sigma,
                width=forecast.fan_out,
                agent=_text(forecast.agent) if forecast.agent else None,
                tokens=forecast.output_tokens,
            ),
        )
    if hints.cut:
        members["cut"] = [_text(name) for name in hints.cut]
    return str(http_sf.ser(members))


# --- reading


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Token | DisplayString) else value


def _reason(error: Exception) -> str:
    return first_problem(error) if isinstance(error, ValidationError) else str(error)


class _Reader:
    """Turns parsed members into models, collecting what is bad instead of raising."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members
        self._rejected: list[Rejection] = []
        self._ignored: list[str] = sorted(members.keys() - _MEMBERS)

    def read(self) -> Decoded:
        program = self._member("program", self._program)
        parents, join = self._member("parents", self._parents) or ((), None)
        fork = self._member("fork", self._fork)
        loop = self._member("loop", self._loop)
        step = self._member("step", lambda value, p: self._step(value, p, parents, join, fork, loop))
        hints = None
        if program is not None and step is not None:
            segments = self._member("segments", self._segments)
            extends = self._member("extends", self._extends)
            if self._was_rejected("segments") or self._was_rejected("extends"):
                # Half a context would name another prompt than the one that was sent.
                segments = extends = None
            hints = Hints(
                program=program,
                step=step,
                extends=extends,
                segments=segments or (),
                forecast=self._member("next", self._forecast),
                cut=self._member("cut", self._cut) or (),
            )
        for name in ("program", "step"):
            if name not in self._members:
                self._rejected.append(Rejection(name, "is missing"))
        return Decoded(hints, tuple(self._rejected), tuple(dict.fromkeys(self._ignored)))

    def _was_rejected(self, name: str) -> bool:
        return any(rejection.hint == name for rejection in self._rejected)

    def _member(self, name: str, read: Callable[[Any, Params], T]) -> T | None:
        if name not in self._members:
            return None
        value, params = self._members[name]
        try:
            return read(_plain(value), {key: _plain(param) for key, param in params.items()})
        except (ValueError, TypeError) as error:
            self._rejected.append(Rejection(name, _reason(error)))
            return None

    def _known(self, member: str, params: Params, *names: str) -> dict[str, Any]:
        self._ignored += [f"{member};{name}" for name in params if name not in names]
        return {name: params[name] for name in names if name in params}

    def _program(self, value: Any, params: Params) -> Program:
        return Program(id=value, **self._known("program", params, "name", "priority", "deadline"))

    def _parents(self, value: Any, params: Params) -> tuple[tuple[str, ...], Any]:
        parents = tuple(self._names(value, {}))
        join = self._known("parents", params, "join").get("join")
        Step(id="x", parents=parents, join=join)
        return parents, join

    def _fork(self, value: Any, params: Params) -> ForkPosition:
        return ForkPosition(id=value, **self._known("fork", params, "index", "width"))

    def _loop(self, value: Any, params: Params) -> LoopPosition:
        return LoopPosition(id=value, **self._known("loop", params, "iteration", "limit"))

    def _step(
        self,
        value: Any,
        params: Params,
        parents: tuple[str, ...],
        join: Any,
        fork: ForkPosition | None,
        loop: LoopPosition | None,
    ) -> Step:
        known = self._known("step", params, "branch", "kind", "model", "agent")
        return Step(id=value, parents=parents, join=join, fork=fork, loop=loop, **known)

    def _extends(self, value: Any, params: Params) -> bytes:
        if not isinstance(value, bytes) or len(value) != 16:
            raise ValueError("is not a digest of 16 bytes")
        return value

    def _segments(self, value: Any, params: Params) -> tuple[Segment, ...]:
        if not isinstance(value, list):
            raise ValueError("is not an inner list")
        return tuple(self._segment(*item) for item in value)

    def _segment(self, digest: Any, params: Params) -> Segment:
        known = self._known("segments", params, "t", "b", "n", "life", "scope", "merged")
        lifetime: Any = known.get("life")
        if isinstance(lifetime, str | Token):
            lifetime = self._token("life", lifetime, _LIFETIMES)
        return Segment(
            digest=digest,
            type=self._token("t", known.get("t"), _TYPES) or SegmentType.CONVERSATION_TURN,
            size=known.get("b"),
            tokens=known.get("n"),
            lifetime=lifetime,
            scope=self._token("scope", known.get("scope"), _SCOPES),
            merged=known.get("merged", 1),
        )

    def _token(self, name: str, value: Any, known: Mapping[str, V]) -> V | None:
        """Returns what a token stands for. One of a later version counts as absent, and is named."""
        if value is None:
            return None
        if not isinstance(value, Token):
            raise ValueError(f"{name} is not a token")
        if str(value) not in known:
            self._ignored.append(f"segments;{name}={value}")
        return known.get(str(value))

    def _forecast(self, value: Any, params: Params) -> Forecast:
        known = self._known("next", params, "after", "sigma", "width", "agent", "tokens")
        return Forecast(
            next=value,
            after=known.get("after"),
            sigma=known.get("sigma"),
            fan_out=known.get("width"),
            agent=known.get("agent"),
            output_tokens=known.get("tokens"),
        )

    def _names(self, value: Any, params: Params) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError("is not an inner list")
        return tuple(_plain(item) for item, _ in value)

    def _cut(self, value: Any, params: Params) -> tuple[Literal["segments", "next", "parents"], ...]:
        return _CUT.validate_python(self._names(value, params))
