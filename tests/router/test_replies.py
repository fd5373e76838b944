import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.router.replies import EventSplitter, UsageFilter, usage_of
from llmd_agents.runtime import Usage


def event(**value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
STREAM = [
    event(choices=[{"delta": {"content": 'say "usage":\n\nplease'}}], usage=None),
    b": heartbeat\n\n",
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
    event(choices=[], usage=USAGE),
    b"data: [DONE]\n\n",
]


@given(st.lists(st.integers(0, len(b"".join(STREAM)))), st.booleans())
def test_however_a_stream_is_cut(cuts: list[int], hide: bool) -> None:
    data = b"".join(STREAM)
    places = sorted({0, len(data), *cuts})
    filter_ = UsageFilter(hide=hide)
    passed = b"".join(filter_.feed(data[start:end]) for start, end in itertools.pairwise(places))
    expected = STREAM[:3] + ([] if hide else [STREAM[3]]) + STREAM[4:]
    assert passed + filter_.rest() == b"".join(expected)
    assert filter_.usage == Usage(9, 4, 2)


def test_usage_beside_content_is_never_hidden() -> None:
    filter_ = UsageFilter(hide=True)
    chunk = event(choices=[{"delta": {"content": "x"}}], usage=USAGE)
    assert filter_.feed(chunk) == chunk
    assert filter_.usage == Usage(9, 4, 2)


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_every_kind_of_blank_line_ends_an_event(blank: bytes) -> None:
    splitter = EventSplitter()
    assert list(splitter.feed(b"data: 1" + blank + b"data: 2" + blank + b"data")) == [
        b"data: 1" + blank,
        b"data: 2" + blank,
    ]
    assert splitter.rest() == b"data"


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": USAGE}, Usage(9, 4, 2)),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 2}}, Usage(9, None, 2)),
        ({"usage": None}, None),
        ({"error": {}}, None),
        ({"usage": "lots"}, None),
        ([], None),
    ],
)
def test_usage_of_a_reply(body: Any, usage: Usage | None) -> None:
    assert usage_of(json.dumps(body).encode()) == usage


@given(st.binary(max_size=200))
def test_any_bytes_pass_unharmed(data: bytes) -> None:
    filter_ = UsageFilter(hide=False)
    assert filter_.feed(data) + filter_.rest() == data
    usage_of(data)


def test_an_endless_event_is_passed_on_in_pieces() -> None:
    splitter = EventSplitter(limit=100)
    pieces = [piece for _ in range(50) for piece in splitter.feed(b"x" * 10)]
    assert b"".join(pieces) + splitter.rest() == b"x" * 500
    assert max(map(len, pieces)) <= 110


def test_many_events_in_many_pieces_are_searched_once() -> None:
    class Counting(EventSplitter):
        searched = 0

        def feed(self, data: bytes) -> Iterator[bytes]:
            self.searched += len(self._rest) - max(self._searched - 3, 0) + len(data)
            return super().feed(data)

    splitter = Counting()
    for _ in range(10_000):
        assert not list(splitter.feed(b"y" * 50))
    assert splitter.searched < 2 * 10_000 * 50
