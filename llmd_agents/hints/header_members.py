"""The members of the hint header: what they declare, and how it is written, in the order in which it is."""

from binascii import a2b_base64
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from .models import Lifetime, Scope, SegmentType

TYPE_TOKENS: Final = {
    SegmentType.SYSTEM_PROMPT: "system",
    SegmentType.TOOL_DEFINITION: "tool",
    SegmentType.DOCUMENT: "document",
    SegmentType.CONVERSATION_TURN: "turn",
    SegmentType.REASONING_BRANCH: "reasoning",
    SegmentType.CHECKPOINT: "checkpoint",
    SegmentType.SCRATCH: "scratch",
}
SEGMENT_TOKENS: Final[dict[str, dict[str, str]]] = {
    "t": {token: segment_type.value for segment_type, token in TYPE_TOKENS.items()},
    "life": {lifetime.value: lifetime.value for lifetime in Lifetime},
    "scope": {scope.value: scope.value for scope in Scope},
}
"""What the tokens among a segment's parameters stand for."""


class Part(NamedTuple):
    """A value or parameter.

    Attributes:
        field: of the model that it declares.
        form: how it is written, with one group; none other is written.
        read: from that group to the field's value; raises ValueError or KeyError for what is none.
    """

    field: str
    form: str
    read: Callable[[str], Any]


class Description(NamedTuple):
    """A member: its value, and its parameters by name."""

    value: Part
    params: Mapping[str, Part] = {}


def _string(field: str) -> Part:
    return Part(field, r'"([ !#-\[\]-~]+)"', str)


def _integer(field: str) -> Part:
    return Part(field, "([0-9]{1,15})", int)


def _decimal(field: str) -> Part:
    return Part(field, r"([0-9]{1,12}\.[0-9]{1,3})", float)


def _token(field: str, read: Callable[[str], Any] = str) -> Part:
    return Part(field, "([a-z]+)", read)


def _names(field: str) -> Part:
    return Part(field, r'\("([!#-\[\]-~]+(?:" "[!#-\[\]-~]+)*)"\)', lambda text: text.split('" "'))


def _digest(field: str) -> Part:
    return Part(field, ":([A-Za-z0-9+/]{22}==):", a2b_base64)


def _lifetime(text: str) -> str | float:
    return SEGMENT_TOKENS["life"][text] if text[0].isalpha() else float(text)


def _join(text: str) -> str | int:
    return text if text[0].isalpha() else int(text)


SEGMENT: Final = Description(
    _digest("digest"),
    {
        "t": _token("type", SEGMENT_TOKENS["t"].__getitem__),
        "b": _integer("size"),
        "n": _integer("tokens"),
        "life": Part("lifetime", r"([a-z]+|[0-9]{1,12}\.[0-9]{1,3})", _lifetime),
        "scope": _token("scope", SEGMENT_TOKENS["scope"].__getitem__),
        "merged": _integer("merged"),
    },
)
"""An item of `segments`."""

MEMBERS: Final[dict[str, Description]] = {
    "v": Description(Part("v", "(1)", int)),
    "program": Description(
        _string("id"),
        {"name": _string("name"), "priority": _integer("priority"), "deadline": _decimal("deadline")},
    ),
    "step": Description(
        _string("id"), {name: _string(name) for name in ("branch", "kind", "model", "agent")}
    ),
    "parents": Description(_names("parents"), {"join": Part("join", "([a-z]+|[0-9]{1,15})", _join)}),
    "fork": Description(_string("id"), {"index": _integer("index"), "width": _integer("width")}),
    "loop": Description(_string("id"), {"iteration": _integer("iteration"), "limit": _integer("limit")}),
    "extends": Description(_digest("extends")),
    "segments": Description(Part("segments", r"\(([^()]+)\)", str)),
    "next": Description(
        _token("next"),
        {
            "after": _decimal("after"),
            "sigma": _decimal("sigma"),
            "width": _integer("fan_out"),
            "agent": _string("agent"),
            "tokens": _integer("output_tokens"),
        },
    ),
    "cut": Description(_names("cut")),
}


def declared_by(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what `Hints` is validated from, given the fields that each member declares."""
    step = {**members["step"], **members.get("parents", {})}
    declared: dict[str, Any] = {"program": members["program"], "step": step}
    for name in ("fork", "loop"):
        if name in members:
            step[name] = members[name]
    for name in ("extends", "segments", "cut"):
        if name in members:
            declared.update(members[name])
    if "next" in members:
        declared["forecast"] = members["next"]
    return declared
