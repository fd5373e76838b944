import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.router.bodies import asking_for_usage, splice
from tests.strategies import json_values

objects = st.dictionaries(st.text(), json_values, max_size=4)


@given(objects, objects.filter(bool), st.sampled_from(["", " ", "\n \t"]))
def test_splicing_adds_and_overrides(body: dict[str, Any], fields: dict[str, Any], space: str) -> None:
    data = (json.dumps(body, indent=1 if space else None) + space).encode()
    try:
        spliced = splice(data, fields)
    except TypeError:  # orjson takes neither huge integers nor lone surrogates; the router adds neither
        return
    assert json.loads(spliced) == {**body, **json.loads(json.dumps(fields))}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"x": 1}}, {"x": 1, "include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
    ],
)
def test_streams_are_asked_for_usage(body: dict[str, Any], expected: dict[str, Any]) -> None:
    sent, hide = asking_for_usage(json.dumps(body).encode())
    assert hide
    assert json.loads(sent) == {**body, "stream_options": expected}


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream": true, "stream_options": {"include_usage": true}}',
        b'{"stream": false}',
        b'{"stream": "true"}',
        b'{"stream": true, "stream_options": 7}',
        b'{"messages": [{"role": "user", "content": "\\"stream\\": true"}]}',
        b'{"tools": [{"stream": true}]}',
        b'{"stream": true',
        b"",
        b"\xff",
    ],
)
def test_everything_else_is_sent_as_it_came(body: bytes) -> None:
    assert asking_for_usage(body) == (body, False)
