"""Parsing a body the fast way says what `json.loads` says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.client.json_body import parse
from llmd_agents.hints import canonical

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(leaves, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@given(values, st.booleans())
def test_it_agrees_with_json_loads(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no bytes unless it is escaped
    assert parse(body) == json.loads(body) == value
    assert canonical(parse(body)) == canonical(json.loads(body))


@given(st.binary())
def test_what_is_no_json_is_refused_alike(body: bytes) -> None:
    try:
        expected = json.loads(body)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            parse(body)
    else:
        assert parse(body) == expected or expected != expected


def test_what_is_nested_deeply_is_refused_or_read_but_harms_nothing() -> None:
    assert parse(b"[" * 500 + b"]" * 500) == json.loads("[" * 500 + "]" * 500)
    with pytest.raises((ValueError, RecursionError)):
        parse(b"[" * 100_000)
