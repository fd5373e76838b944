import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import canonical, canonical_message
from tests.strategies import json_values, messages


def reference(value: Any) -> bytes:
    """The specification once more, written for clarity: docs/digests.md says the same in words."""
    match value:
        case None:
            return b"n"
        case True:
            return b"t"
        case False:
            return b"f"
        case int() | float():
            if abs(value) < 2**53 and float(value).is_integer():
                return f"i{int(value)}e".encode()
            try:
                return b"r" + struct.pack(">d", value)
            except OverflowError:
                return b"r" + struct.pack(">d", float("inf") if value > 0 else float("-inf"))
        case str():
            data = value.encode("utf-8", "surrogatepass")
            return f"{len(data)}:".encode() + data
        case list():
            return b"l" + b"".join(map(reference, value)) + b"e"
        case dict():
            keys = sorted(value, key=lambda key: key.encode("utf-8", "surrogatepass"))
            return b"d" + b"".join(reference(key) + reference(value[key]) for key in keys) + b"e"
    raise AssertionError(value)


@given(json_values)
def test_follows_the_specification(value: Any) -> None:
    assert canonical(value) == reference(value)


@given(json_values)
def test_survives_any_json_library(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True)):
        assert canonical(json.loads(text)) == canonical(value)


def decode(data: bytes) -> Any:
    """Reads canonical bytes back, which proves that unequal values have unequal bytes."""

    def read(at: int) -> tuple[Any, int]:
        kind = data[at : at + 1]
        if kind in b"ntf":
            return {b"n": None, b"t": True, b"f": False}[kind], at + 1
        if kind == b"i":
            end = data.index(b"e", at)
            return int(data[at + 1 : end]), end + 1
        if kind == b"r":
            return struct.unpack(">d", data[at + 1 : at + 9])[0], at + 9
        if kind in b"ld":
            items = []
            at += 1
            while data[at : at + 1] != b"e":
                item, at = read(at)
                items.append(item)
            pairs = dict(zip(items[::2], items[1::2], strict=True)) if kind == b"d" else None
            return (items if pairs is None else pairs), at + 1
        colon = data.index(b":", at)
        end = colon + 1 + int(data[at:colon])
        return data[colon + 1 : end].decode("utf-8", "surrogatepass"), end

    value, end = read(0)
    assert end == len(data)
    return value


@given(json_values)
def test_loses_nothing(value: Any) -> None:
    assert canonical(decode(canonical(value))) == canonical(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, b"i1e"),
        (-0.0, b"i0e"),
        (2**53 - 1, b"i9007199254740991e"),
        (2**53, b"r" + struct.pack(">d", 2.0**53)),
        (2**53 + 1, b"r" + struct.pack(">d", 2.0**53)),
        (10**400, b"r" + struct.pack(">d", float("inf"))),
        (float("nan"), b"r" + struct.pack(">d", float("nan"))),
        ("é\ud800", b"5:\xc3\xa9\xed\xa0\x80"),
        ({"b": 1, "a": [True, None]}, b"d1:altne1:bi1ee"),
    ],
)
def test_edges(value: Any, expected: bytes) -> None:
    assert canonical(value) == expected


@given(messages)
def test_null_members_and_cache_marks_do_not_count(message: dict[str, Any]) -> None:
    marked = {**message, "refusal": None, "cache_control": {"type": "ephemeral"}}
    if isinstance(message["content"], list):
        marked["content"] = [{**part, "prompt_cache_breakpoint": {}} for part in message["content"]]
    assert canonical_message(marked) == canonical_message(message)


@given(st.text(), st.text())
def test_short_path_for_plain_text_is_no_other_encoding(role: str, content: str) -> None:
    message = {"role": role, "content": content}
    assert canonical_message(message) == canonical(message)


def test_refuses_what_is_not_json() -> None:
    with pytest.raises(TypeError, match="set is not a JSON type"):
        canonical({"a": {1}})
