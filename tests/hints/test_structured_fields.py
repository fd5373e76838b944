"""Our reader and writer of structured fields, beside `http_sf`, which implements the whole of RFC 9651."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmd_agents.hints import structured_field_parser
from llmd_agents.hints.structured_field_parser import Token, parse_dictionary
from llmd_agents.hints.structured_field_writer import byte_sequence, decimal, integer, string

# --- fields by the grammar, with all the freedom in spacing that it leaves

keys = st.from_regex(r"\A[a-z*][a-z0-9_.*-]{0,8}\Z")
tokens = st.from_regex(r"\A[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]{0,8}\Z")
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
integers = st.integers(-(10**15) + 1, 10**15 - 1)
decimals = st.decimals(-(10**12) + 1, 10**12 - 1, places=3, allow_nan=False).map(lambda number: f"{number:f}")
written_bytes = st.binary(max_size=20).map(byte_sequence)
bare_items = st.one_of(
    printable.map(string),
    st.text(max_size=12).map(lambda text: http_sf.ser({"k": http_sf.DisplayString(text)})[2:]),
    integers.map(str),
    st.integers(0, 999).map(lambda number: f"{number:05d}"),
    decimals,
    tokens,
    written_bytes,
    written_bytes.map(lambda text: text.replace("=", "")),
    st.sampled_from(["?0", "?1"]),
    st.integers(-(10**12), 10**12).map(lambda seconds: f"@{seconds}"),
)
spaces = st.text(" ", max_size=2)
either_blank = st.text(" \t", max_size=2)
params = st.lists(
    st.builds(lambda space, key, value: f";{space}{key}{value}", spaces, keys,
              st.just("") | bare_items.map("={}".format)),
    max_size=3,
).map("".join)  # fmt: skip
items = st.builds("{}{}".format, bare_items, params)
inner_lists = st.builds(
    "({}{}{}){}".format, spaces, st.lists(items, max_size=4).map("  ".join), spaces, params
)
members = st.builds("{}{}".format, keys, params | (items | inner_lists).map("={}".format))
separators = st.builds("{},{}".format, either_blank, either_blank)


@st.composite
def dictionaries(draw: st.DrawFn) -> str:
    text = draw(spaces) + draw(members)
    for _ in range(draw(st.integers(0, 4))):
        text += draw(separators) + draw(members)
    return text + draw(either_blank)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A field with a few characters changed, left out or put in."""
    text = draw(dictionaries())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        put = draw(st.text(st.sampled_from(' \t",;=():%@?\\.-*0aZé\0'), max_size=2))
        text = text[:at] + put + text[at + draw(st.integers(0, 2)) :]
    return text


# --- the same to both


def by_reference(text: str) -> Any:
    """What `http_sf` reads, in our types; None where it refuses."""
    try:
        read = http_sf.parse(text.encode("utf-8", "surrogatepass"), tltype="dictionary")
    except (http_sf.StructuredFieldError, ValueError):
        return None
    return in_our_types(read)


def in_our_types(value: Any) -> Any:
    match value:
        case dict():
            return {key: in_our_types(one) for key, one in value.items()}
        case list() | tuple():
            return type(value)(in_our_types(one) for one in value)
        case Decimal():
            return float(value)
        case http_sf.Token():
            return Token(str(value))
        case http_sf.DisplayString():
            return str(value)
        case _:
            return value


def by_us(text: str) -> Any:
    try:
        return parse_dictionary(text)
    except ValueError:
        return None


def typed(value: Any) -> Any:
    """Tells 1 from True and a Token from a String, which are equal to Python."""
    match value:
        case dict():
            return {key: typed(one) for key, one in value.items()}
        case list() | tuple():
            return [typed(one) for one in value]
        case _:
            return type(value), value


def assert_same(text: str) -> None:
    assert typed(by_us(text)) == typed(by_reference(text))


@given(dictionaries())
@example("")
@example("  ")
@example("a=1, a=(2), b;x, b")
@example('a=("x";q "y" );z=%"%c3%bc"')
@example("a=:QQ:, b=:QUFB=:, c=::, d=@-62135596800, e=-0, f=-0.0, g=007")
def test_reads_what_the_grammar_allows(text: str) -> None:
    read = by_us(text)
    assert read is not None or by_reference(text) is None  # a date may be out of range
    assert_same(text)


@given(mutated())
@example("\ta=1")
@example("a=1,")
@example("a=1 b=2")
@example("a=(1;x=(2))")
@example("a=((1))")
@example("a=(1")
@example("a=(;x)")
@example("a=(1)2")
@example("a=1)")
@example("a=(1, b=2)")
@example('a=("x""y")')
@example("a=(1,2)")
@example("a=1.")
@example("a=1.2345")
@example("a=1234567890123.1")
@example("a=1234567890123456")
@example("a=:=:")
@example("a=:Q===:")
@example("a=:A:")
@example("a=:a b:")
@example('a="\\x"')
@example('a="x')
@example('a=%"%C3%BC"')
@example('a=%"%ff"')
@example("a=@1.5")
@example("a=@999999999999999")
@example("a=?2")
@example("A=1")
@example("a=é")
@example("a=\u0661")
@example("a=1\n")
def test_refuses_what_the_grammar_does_not(text: str) -> None:
    assert_same(text)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    assert_same(text)


@given(st.text(' \t",;=():%@?\\.-*0aZ', max_size=40).map("a=".__add__))
def test_any_text_in_the_characters_of_the_grammar(text: str) -> None:
    assert_same(text)


# --- writing


@given(st.text(max_size=40))
def test_any_text_is_written_so_that_all_read_it(text: str) -> None:
    try:
        field = f"a={string(text)}"
    except UnicodeEncodeError:
        assert any("\ud800" <= char <= "\udfff" for char in text)
        return
    assert field.isascii()
    assert parse_dictionary(field) == {"a": (text, {})}
    assert by_reference(field) == {"a": (text, {})}


@given(integers)
def test_integers_are_written_so_that_all_read_them(number: int) -> None:
    assert by_reference(f"a={integer(number)}") == parse_dictionary(f"a={number}") == {"a": (number, {})}


@given(st.floats(-(10**12), 10**12) | st.integers(-(10**13), 10**13))
@example(0.0005)
@example(0.0015)
@example(-0.0001)
@example(999999999999.9994)
@example(999999999999.9996)
def test_decimals_are_rounded_as_the_reference_rounds_them(number: float) -> None:
    try:
        expected = http_sf.ser({"a": float(number)})
    except ValueError:
        with pytest.raises(ValueError, match="12 digits"):
            decimal(number)
        return
    assert f"a={decimal(number)}" == expected


@given(st.binary(max_size=40))
def test_bytes_are_written_as_the_reference_writes_them(data: bytes) -> None:
    assert f"a={byte_sequence(data)}" == http_sf.ser({"a": data})


@pytest.mark.parametrize("number", [10**15, -(10**15), 10**400])
def test_an_integer_too_long_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="15 digits"):
        integer(number)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e12, 1e300])
def test_a_decimal_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="12 digits"):
        decimal(number)


# --- the work


class Counted:
    """The lexemes' expression, counting what it gives."""

    def __init__(self) -> None:
        self.lexemes = 0
        self.characters = 0

    def findall(self, text: str) -> list[tuple[str, ...]]:
        found = [(match.groups(default=""), match.group()) for match in LEXEMES.finditer(text)]
        self.lexemes += len(found)
        self.characters += sum(len(whole) for _, whole in found)
        assert "".join(whole for _, whole in found) == text
        return [groups for groups, _ in found]


LEXEMES = structured_field_parser._LEXEMES

HOSTILE = {
    "escapes without an end": 'a="' + '\\"' * 50_000,
    "quotes": "a=" + '"' * 100_000,
    "open lists": "a=" + "(" * 100_000,
    "closed lists": "a=" + ")" * 100_000,
    "a list without an end": "a=(" + "1 " * 50_000,
    "a list of strings without an end": "a=(" + '"x" ' * 25_000,
    "colons": "a=(" + ":" * 100_000,
    "half byte sequences": "a=(" + ":AAAA" * 20_000,
    "half display strings": "a=(" + '%"%c3' * 20_000,
    "spaces": "a=(" + " " * 100_000,
    "spaces between members": "a" + " \t" * 50_000 + "b",
    "parameters": "a" + ";b" * 50_000,
    "members": "a," * 50_000,
    "digits": "a=" + "1" * 100_000,
    "a long key": "a" * 100_000,
    "not ASCII": "a=" + "é" * 50_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_each_character_is_read_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    monkeypatch.setattr(structured_field_parser, "_LEXEMES", counted)
    by_us(text)
    assert counted.characters <= len(text) + 1
    assert counted.lexemes <= len(text) + 1


def test_messages_are_short_and_say_where() -> None:
    with pytest.raises(ValueError, match="cannot be read from character 8 on"):
        parse_dictionary('nonsense"' + "x" * 100_000)


def test_dates_are_moments_in_utc() -> None:
    (moment, _) = parse_dictionary("a=@1760000000")["a"]
    assert isinstance(moment, datetime)
    assert moment.timestamp() == 1760000000
    assert moment.tzinfo is not None
