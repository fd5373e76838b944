"""What is learned from answers, in one piece or as they are streamed, cut anywhere."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.client.answer import ASKED_MAX, LINE_MAX_BYTES, Answer
from llmd_agents.client.tool_name import CALL_MAX_CHARS, call_key

CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"q":1}'}}
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [CALL]}}],
    "usage": {"prompt_tokens": 90, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "output": [{"type": "reasoning"}, {"type": "function_call", "call_id": "call_1", "name": "search"}],
    "usage": {"input_tokens": 90, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 64}},
}


def told(answer: Answer) -> tuple[Any, ...]:
    return answer.input_tokens, answer.cached_tokens, answer.output_tokens, answer.asked


def read(data: bytes, *, streamed: bool, cuts: list[int] | None = None) -> Answer:
    answer = Answer(streamed=streamed)
    start = 0
    for cut in sorted({min(cut, len(data)) for cut in cuts or ()}):
        answer.feed(data[start:cut])
        start = cut
    answer.feed(data[start:])
    answer.end()
    return answer


def sent(*events: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


CHAT_EVENTS = sent(
    {"choices": [{"delta": {"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '"tool_calls"'}}]}}]},
    {"choices": [], "usage": CHAT["usage"]},
)
RESPONSE_EVENTS = sent(
    {"type": "response.output_text.delta", "delta": "hello"},
    {"type": "response.completed", "response": RESPONSE},
)


@given(st.lists(st.integers(0, 800), max_size=20))
def test_whole_answers(cuts: list[int]) -> None:
    for body in (CHAT, RESPONSE):
        answer = read(json.dumps(body).encode(), streamed=False, cuts=cuts)
        assert told(answer) == (90, 64, 7, [("call_1", "search")])
        assert answer.complete


@given(st.lists(st.integers(0, 800), max_size=20))
def test_streamed_answers(cuts: list[int]) -> None:
    for data in (CHAT_EVENTS, RESPONSE_EVENTS, CHAT_EVENTS.replace(b"\n", b"\r\n")):
        answer = read(data, streamed=True, cuts=cuts)
        assert told(answer) == (90, 64, 7, [("call_1", "search")])


def test_the_end_mark_completes_a_stream() -> None:
    answer = Answer(streamed=True)
    answer.feed(CHAT_EVENTS[:-10])
    assert not answer.complete
    answer.feed(CHAT_EVENTS[-10:])
    assert answer.complete


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode), st.booleans())
def test_any_bytes_are_taken(data: bytes, streamed: bool) -> None:
    assert told(read(data, streamed=streamed)) == (None, None, None, [])
    read(b"data: " + data + b'"tool_calls"\n', streamed=True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "usage",
                        "choices",
                        "message",
                        "tool_calls",
                        "function",
                        "output",
                        "object",
                        "prompt_tokens",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_taken(value: Any) -> None:
    answer = read(json.dumps(value).encode(), streamed=False)
    assert answer.input_tokens is None or 0 <= answer.input_tokens <= 10**12
    read(sent(value), streamed=True)


def test_absurd_counts_are_not_believed() -> None:
    counts: list[Any] = [-1, 10**13, True, "7", 1.5, None, []]
    for count in counts:
        answer = read(json.dumps({"usage": {"prompt_tokens": count}}).encode(), streamed=False)
        assert answer.input_tokens is None


def test_hostile_answers_are_not_kept() -> None:
    deep = b'{"usage":' * 100_000
    assert told(read(deep, streamed=False)) == (None, None, None, [])
    line = Answer(streamed=True)
    for _ in range(64):
        line.feed(b"x" * (LINE_MAX_BYTES // 8))
    assert sum(map(len, line._parts)) <= 2 * LINE_MAX_BYTES
    long: Any = {"id": "x" * 10**6, "function": {"name": "n" * 10**6}}
    ((key, name),) = read(
        json.dumps({"choices": [{"message": {"tool_calls": [long]}}]}).encode(), streamed=False
    ).asked
    assert key == call_key(long["id"])
    assert max(len(key), len(name)) <= CALL_MAX_CHARS
    calls = [{**CALL, "id": f"call_{number}"} for number in range(5 * ASKED_MAX)]
    many = read(json.dumps({"choices": [{"message": {"tool_calls": calls}}]}).encode(), streamed=False)
    assert len(many.asked) == ASKED_MAX
