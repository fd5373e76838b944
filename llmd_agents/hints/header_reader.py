"""From the members of a hint header to hints; what is bad is left out and named, never raised."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from .errors import problems
from .header_members import MEMBERS, SEGMENT, SEGMENT_TOKENS, declared_by
from .models import Hints, SegmentType
from .structured_field_parser import BareItem, InnerList, Member, Params, Token

_CONTEXT: Final = frozenset(("segments", "extends"))
_TYPE_IF_ABSENT: Final = SegmentType.CONVERSATION_TURN.value


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


def read_members(members: Mapping[str, Member]) -> Decoded:
    """Never raises: whatever is wrong with the members is in the result."""
    return _Reader(members).read()


class _Reader:
    """Turns parsed members into hints, collecting what is bad instead of raising."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self._rejected: dict[str, str] = {}
        self._ignored = dict.fromkeys(sorted(members.keys() - MEMBERS.keys()))

    def read(self) -> Decoded:
        readers: dict[str, Callable[[BareItem | InnerList], Any]] = {
            "parents": _names,
            "extends": _digest,
            "segments": self._segments,
            "cut": _names,
        }
        fields = {
            name: self._fields(name, readers.get(name, _as_it_is))
            for name in MEMBERS
            if name in self._members
        }
        hints = self._validated(fields)
        rejected = tuple(Rejection(name, reason) for name, reason in self._rejected.items())
        return Decoded(hints, rejected, tuple(self._ignored))

    def _fields(self, name: str, read: Callable[[BareItem | InnerList], Any]) -> dict[str, Any]:
        """Returns what a member declares: by its value, and by its parameters."""
        value, params = self._members[name]
        described = MEMBERS[name]
        try:
            fields = {described.value.field: read(value)}
        except ValueError as error:
            self._rejected[name] = str(error)
            return {}
        for param, declared in params.items():
            if param in described.params:
                fields[described.params[param].field] = declared
            else:
                self._ignored[f"{name};{param}"] = None
        return fields

    def _segments(self, value: BareItem | InnerList) -> list[dict[str, Any]]:
        return [self._segment(digest, params) for digest, params in _inner_list(value)]

    def _segment(self, digest: BareItem, params: Params) -> dict[str, Any]:
        fields: dict[str, Any] = {"digest": _digest(digest), "type": _TYPE_IF_ABSENT}
        for param, value in params.items():
            if (part := SEGMENT.params.get(param)) is None:
                self._ignored[f"segments;{param}"] = None
            elif (tokens := SEGMENT_TOKENS.get(param)) is None or (
                param == "life" and not isinstance(value, str)
            ):
                fields[part.field] = value
            elif not isinstance(value, Token):
                raise ValueError(f"{param} is not a token")
            elif value in tokens:
                fields[part.field] = tokens[value]
            else:
                # One of a later version counts as absent.
                self._ignored[f"segments;{param}={value}"] = None
        return fields

    def _validated(self, fields: dict[str, dict[str, Any]]) -> Hints | None:
        """Leaves out what is bad; returns None where the program or the step is."""
        for name in ("program", "step"):
            if name not in fields:
                self._rejected[name] = "is missing"
        for _ in MEMBERS:  # every pass that fails rejects one more
            if "program" in self._rejected or "step" in self._rejected:
                return None
            left_out = set(self._rejected)
            if left_out & _CONTEXT:
                # Half a context would name another prompt than the one that was sent.
                left_out |= _CONTEXT
            try:
                return Hints.model_validate(
                    declared_by({name: one for name, one in fields.items() if name not in left_out})
                )
            except ValidationError as error:
                for where, message in problems(error):
                    name, within = _member_at(where)
                    self._rejected.setdefault(name, f"{within}: {message}" if within else message)
        return None


def _member_at(where: tuple[int | str, ...]) -> tuple[str, str]:
    """Returns the member that a place in the hints was read from, and the place within it."""
    name, *within = where
    if name == "step" and within and within[0] in ("fork", "loop"):
        name, *within = within
    elif name == "step" and within and within[0] in ("parents", "join"):
        name = "parents"
    elif name == "segments":
        within = within[1:]
    elif name == "forecast":
        name = "next"
    return str(name), ".".join(map(str, within))


def _as_it_is(value: BareItem | InnerList) -> BareItem | InnerList:
    return value


def _inner_list(value: BareItem | InnerList) -> InnerList:
    if not isinstance(value, list):
        raise ValueError("is not an inner list")
    return value


def _names(value: BareItem | InnerList) -> list[BareItem]:
    return [item for item, _ in _inner_list(value)]


def _digest(value: BareItem | InnerList) -> bytes:
    if not isinstance(value, bytes) or len(value) != 16:
        raise ValueError("is not a digest of 16 bytes")
    return value
