import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.router.replies import EventSplitter, UsageFilter, id_of, usage_of
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


def response_event(kind: str, end: bytes = b"\n", **members: Any) -> bytes:
    data = json.dumps({"type": f"response.{kind}", "sequence_number": 0, **members}).encode()
    return b"event: response." + kind.encode() + end + b"data: " + data + end + end


RESPONSE_USAGE = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", ["completed", "incomplete"])
def test_a_responses_stream_tells_its_id_first_and_its_usage_last(end: bytes, last: str) -> None:
    filter_ = UsageFilter(hide=True)
    seen = []
    for event_ in (
        response_event("created", end, response={"id": "resp_1", "usage": None}),
        response_event("in_progress", end, response={"id": "resp_1"}),
        response_event("output_item.added", end, item={"type": "message", "content": []}),
        response_event("output_text.delta", end, delta='"usage": {"input_tokens": 1}'),
        response_event(last, end, response={"id": "resp_1", "usage": RESPONSE_USAGE}),
    ):
        assert filter_.feed(event_) == event_
        seen.append((filter_.response_id, filter_.begun, filter_.usage))
    assert seen == [
        ("resp_1", False, None),
        ("resp_1", False, None),
        ("resp_1", True, None),
        ("resp_1", True, None),
        ("resp_1", True, Usage(9, 4, 2)),
    ]


@pytest.mark.parametrize(
    "event_",
    [
        b"event: response.created\ndata: {\n\n",
        b"event: response.created\ndata: [1]\n\n",
        b'event: response.created\ndata: {"response": 7}\n\n',
        b'event: response.created\ndata: {"response": {"id": 7}}\n\n',
        b"event: response.created\n\n",
        b"event: response.\n\n",
        b"event: response.completed\ndata: \xff\n\n",
    ],
)
def test_what_cannot_be_read_of_a_response_passes(event_: bytes) -> None:
    filter_ = UsageFilter(hide=True)
    assert filter_.feed(event_) == event_
    assert (filter_.response_id, filter_.usage) == (None, None)


def test_ids() -> None:
    assert id_of(b'{"id": "resp_1", "usage": null}') == "resp_1"
    for other in (b"[]", b"{}", b'{"id": 7}', b"\xff"):
        assert id_of(other) is None


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
        ({"usage": RESPONSE_USAGE}, Usage(9, 4, 2)),
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
