"""The response header `x-llmd-ack`: what became of the hints of one request.

v=1, accepted=("program" "step" "segments"), rejected=("fork";reason="index: …"), resync
"""

from collections.abc import Iterator, Mapping
from typing import Final

from .errors import UnreadableHints
from .fields import Contract
from .header import VERSION, Rejection
from .limits import ACK_MAX_BYTES
from .structured_field_parser import InnerList, Member, parse_dictionary
from .structured_field_writer import string

ACK_HEADER: Final = "x-llmd-ack"
_REASON_MAX_CHARS = 120


class Ack(Contract):
    """The answer to one request's hints.

    Attributes:
        accepted: members that will be used as declared.
        clipped: members that are used in part, each with the reason.
        rejected: members that are not used, each with the reason. `hints` stands for the header as a whole.
        ignored: members that this version does not know.
        resync: the server does not know the digest that the step extends; send the whole list next time.
    """

    accepted: tuple[str, ...] = ()
    clipped: tuple[Rejection, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    ignored: tuple[str, ...] = ()
    resync: bool = False


def encode_ack(ack: Ack) -> str:
    """Returns the header value: ASCII, at most `ACK_MAX_BYTES`.

    Reasons are shortened to 120 characters; when it would still be too long, what is ignored is left out,
    then all but the first few rejections, then everything but `resync`.
    """
    return next(value for value in map(_written, _ever_shorter(ack)) if len(value) <= ACK_MAX_BYTES)


def _ever_shorter(ack: Ack) -> Iterator[Ack]:
    yield ack
    ack = ack.model_copy(update={"ignored": ()})
    yield ack
    first = {"clipped": ack.clipped[:4], "rejected": ack.rejected[:4]}
    yield ack.model_copy(update={"accepted": ack.accepted[:8], **first})
    yield Ack(resync=ack.resync)


def _written(ack: Ack) -> str:
    value = f"v={VERSION}"
    if ack.accepted:
        value += f", accepted=({' '.join(map(_ascii, ack.accepted))})"
    for name, rejections in (("clipped", ack.clipped), ("rejected", ack.rejected)):
        if rejections:
            items = (f"{_ascii(item.hint)};reason={_ascii(item.reason)}" for item in rejections)
            value += f", {name}=({' '.join(items)})"
    if ack.ignored:
        value += f", ignored=({' '.join(map(_ascii, ack.ignored))})"
    return value + ", resync" if ack.resync else value


def decode_ack(value: str | bytes) -> Ack:
    """Reads a header value; unknown members are ignored.

    Raises:
        UnreadableHints: if it is longer than `ACK_MAX_BYTES`, or not an ack of this version.
    """
    if len(value) > ACK_MAX_BYTES:
        raise UnreadableHints(f"not an ack: {len(value)} bytes, more than {ACK_MAX_BYTES}")
    # What is not ASCII becomes a character that no structured field holds.
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    try:
        members = parse_dictionary(text)
        version = members.get("v", (VERSION, {}))[0]
        if version != VERSION or isinstance(version, bool):
            raise ValueError("another version")
        return Ack(
            accepted=_names(members, "accepted"),
            clipped=_rejections(members, "clipped"),
            rejected=_rejections(members, "rejected"),
            ignored=_names(members, "ignored"),
            resync=members.get("resync", (False, {}))[0] is True,
        )
    except ValueError as error:
        raise UnreadableHints(f"not an ack: {error}") from None


def _ascii(text: str) -> str:
    start = text[:_REASON_MAX_CHARS]
    return string("".join(char if " " <= char <= "~" else "?" for char in start))


def _names(members: Mapping[str, Member], name: str) -> tuple[str, ...]:
    return tuple(str(item) for item, _ in _items(members, name))


def _rejections(members: Mapping[str, Member], name: str) -> tuple[Rejection, ...]:
    items = _items(members, name)
    return tuple(Rejection(str(item), str(params.get("reason", ""))) for item, params in items)


def _items(members: Mapping[str, Member], name: str) -> InnerList:
    items, _ = members.get(name, ([], {}))
    if not isinstance(items, list):
        raise ValueError(f"{name} is not an inner list")
    return items
