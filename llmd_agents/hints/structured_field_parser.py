"""Reads RFC 9651 dictionaries, strictly.

One regular expression cuts the field into lexemes, and a loop over them is the grammar. A lexeme is told by
its first character, and the first that is none takes all that is left: so the work is linear in the field's
length, whatever it holds. Lists nest once; the grammar has no more.

A Decimal is read as a float, a Display String as a str.
"""

import re
from binascii import a2b_base64
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes


class Token(str):
    """A bare word, where that must be told from a String."""

    __slots__ = ()


BareItem: TypeAlias = int | float | str | Token | bytes | bool | datetime
Params: TypeAlias = dict[str, BareItem]
InnerList: TypeAlias = list[tuple[BareItem, Params]]
Member: TypeAlias = tuple[BareItem | InnerList, Params]

_KEY: Final = r"[a-z*][a-z0-9_\-.*]*"
_BARE: Final = "|".join(
    (
        r'"[ !#-\[\]-~]*(?:\\["\\][ !#-\[\]-~]*)*"',
        r"-?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})",
        r"[A-Za-z*][A-Za-z0-9:/!#$%&'*+\-.^_`|~]*",
        r":[A-Za-z0-9+/]*={0,2}:",
        r"\?[01]",
        r"@-?[0-9]{1,15}",
        r'%"(?:[ !#$&-~]|%[0-9a-f]{2})*"',
    )
)
_LEXEMES: Final = re.compile(
    rf"(?:([ \t]*,[ \t]*)|; *)({_KEY})(?:=({_BARE}|\( *))?"  # a member or parameter and its value
    rf"|( *)({_BARE})"  # an item of an inner list
    r"|( *\))"
    r"|([\s\S]+)"  # what is none of these
)
_ESCAPED: Final = re.compile(r"\\(.)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_dictionary(text: str) -> dict[str, Member]:
    """Returns the members in the order of their first appearance; of equal ones the last counts.

    Raises:
        ValueError: if the text is no dictionary; the message tells where it stops being one.
    """
    members: dict[str, Member] = {}
    fields = text.lstrip(" ")
    if not fields:
        return members
    if fields[0] == "\t":
        raise ValueError("begins with a tab")
    name = ""  # of the member that is being read
    items: InnerList | None = None  # of the inner list that is open
    params: Params | None = None  # of what stands before; None where no parameter may follow
    for comma, key, value, space, item, close, rest in _LEXEMES.findall("," + fields):
        if comma:
            if items is not None:
                raise ValueError(f"the list of {name} is not closed")
            name = key
            if value[:1] == "(":
                items, params = [], None
            else:
                params = {}
                members[name] = _bare_item(value) if value else True, params
        elif key:
            if params is None or value[:1] == "(":
                raise ValueError(f"{name};{key} is out of place")
            params[key] = _bare_item(value) if value else True
        elif item:
            if items is None or (items and not space):
                raise ValueError(f"{name} is followed by more than a comma or a parameter")
            params = {}
            items.append((_bare_item(item), params))
        elif close:
            if items is None:
                raise ValueError(f"{name} closes a list that it did not open")
            params = {}
            members[name] = items, params
            items = None
        elif rest.strip(" \t"):
            raise ValueError(f"cannot be read from character {max(0, len(text) - len(rest))} on")
    if items is not None:
        raise ValueError(f"the list of {name} is not closed")
    return members


def _bare_item(raw: str) -> BareItem:
    first = raw[0]
    if first == '"':
        value = raw[1:-1]
        return _ESCAPED.sub(r"\1", value) if "\\" in value else value
    if first in "0123456789-":
        return float(raw) if "." in raw else int(raw)
    if first == ":":
        return _byte_sequence(raw)
    if first == "%":
        return unquote_to_bytes(raw[2:-1]).decode()
    if first == "?":
        return raw == "?1"
    if first == "@":
        return _date(raw)
    return Token(raw)


def _byte_sequence(raw: str) -> bytes:
    digits = raw.strip(":").rstrip("=")
    if not digits and raw != "::":
        raise ValueError("a byte sequence is padding alone")
    return a2b_base64(digits + "=" * (-len(digits) % 4))


def _date(raw: str) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=int(raw[1:]))
    except OverflowError:
        raise ValueError("a date is out of range") from None
