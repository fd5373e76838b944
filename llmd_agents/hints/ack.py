"""The response header `x-llmd-ack`: what became of the hints of one request.

v=1, accepted=("program" "step" "segments"), rejected=("fork";reason="index: …"), resync
"""

from typing import Any, Final, cast

import http_sf
from http_sf import StructuredFieldError

from .errors import UnreadableHints
from .fields import Contract
from .header import VERSION, Rejection
from .limits import ACK_MAX_BYTES

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
    then all but the first few rejections and their reasons.
    """
    value = _serialize(ack)
    if len(value) > ACK_MAX_BYTES:
        value = _serialize(ack.model_copy(update={"ignored": ()}))
    if len(value) > ACK_MAX_BYTES:
        first = {name: tuple(getattr(ack, name)[:4]) for name in ("clipped", "rejected")}
        value = _serialize(ack.model_copy(update={"ignored": (), "accepted": ack.accepted[:8], **first}))
    return value


def _serialize(ack: Ack) -> str:
    members: dict[str, Any] = {"v": VERSION}
    if ack.accepted:
        members["accepted"] = [_ascii(name) for name in ack.accepted]
    for name, rejections in (("clipped", ack.clipped), ("rejected", ack.rejected)):
        if rejections:
            members[name] = [(_ascii(item.hint), {"reason": _ascii(item.reason)}) for item in rejections]
    if ack.ignored:
        members["ignored"] = [_ascii(name) for name in ack.ignored]
    if ack.resync:
        members["resync"] = True
    return str(http_sf.ser(members))


def decode_ack(value: str | bytes) -> Ack:
    """Reads a header value; unknown members are ignored.

    Raises:
        UnreadableHints: if it is not an ack of this version.
    """
    data = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
    try:
        members = cast("dict[str, Any]", http_sf.parse(data, tltype="dictionary"))
        if members.get("v", (VERSION, {}))[0] != VERSION:
            raise ValueError("another version")
        return Ack(
            accepted=_names(members, "accepted"),
            clipped=_rejections(members, "clipped"),
            rejected=_rejections(members, "rejected"),
            ignored=_names(members, "ignored"),
            resync=members.get("resync", (False, {}))[0] is True,
        )
    except (StructuredFieldError, ValueError, TypeError, OverflowError) as error:
        raise UnreadableHints(f"not an ack: {error}") from None


def _ascii(text: str) -> str:
    clean = "".join(char if " " <= char <= "~" else "?" for char in text)
    return clean[:_REASON_MAX_CHARS]


def _names(members: dict[str, Any], name: str) -> tuple[str, ...]:
    return tuple(str(item) for item, _ in members.get(name, ([], {}))[0])


def _rejections(members: dict[str, Any], name: str) -> tuple[Rejection, ...]:
    return tuple(
        Rejection(str(item), str(params.get("reason", ""))) for item, params in members.get(name, ([], {}))[0]
    )
