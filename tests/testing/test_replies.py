"""The real openai package, whichever major version is installed, reads what the recording server sends."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from llmd_agents.hints import Ack, decode_ack
from llmd_agents.testing import (
    Failure,
    Hangup,
    Line,
    RecordingServer,
    Reply,
    ToolCall,
    Usage,
    recording_server,
)

HELLO: Any = [{"role": "user", "content": "hello"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}},
                "required": ["query"],
                "additionalProperties": False,
            },
        },
    }
]


class Grade(BaseModel):
    score: int
    why: str


@contextmanager
def serving(*lines: Any, retries: int = 0) -> Iterator[tuple[RecordingServer, OpenAI]]:
    with (
        recording_server(*lines) as server,
        OpenAI(base_url=server.base_url, api_key="k", max_retries=retries) as client,
    ):
        yield server, client


def test_text() -> None:
    reply = Reply("Hello there.", usage=Usage(100, 7, cached=64, reasoning=2))
    with serving(reply, "plain") as (server, client):
        said = client.chat.completions.create(model="m", messages=HELLO)
        plain = client.chat.completions.create(model="m", messages=HELLO, n=2)
    assert said.choices[0].message.content == "Hello there."
    assert (said.choices[0].finish_reason, said.model) == ("stop", "m")
    assert said.usage is not None
    assert (said.usage.prompt_tokens, said.usage.completion_tokens, said.usage.total_tokens) == (100, 7, 107)
    assert said.usage.prompt_tokens_details is not None
    assert said.usage.prompt_tokens_details.cached_tokens == 64
    assert said.usage.completion_tokens_details is not None
    assert said.usage.completion_tokens_details.reasoning_tokens == 2
    assert [choice.message.content for choice in plain.choices] == ["plain", "plain"]
    assert [call.json["messages"] for call in server.calls] == [HELLO, HELLO]


def test_tool_calls() -> None:
    calls = [ToolCall("search", {"query": "tides"}), ToolCall("search", '{"broken', id="mine")]
    with serving(Reply(calls=calls)) as (_, client):
        choice = client.chat.completions.create(model="m", messages=HELLO, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    functions: list[Any] = list(choice.message.tool_calls)
    assert [(call.id, call.function.name, call.function.arguments) for call in functions] == [
        ("call_1_0", "search", '{"query": "tides"}'),
        ("mine", "search", '{"broken'),
    ]


def test_structured_output_is_parsed() -> None:
    grade = Grade(score=7, why="clear")
    with serving(grade, {"score": 8, "why": "ünclear"}, Reply(grade), "no JSON") as (_, client):
        parsed = [
            client.chat.completions.parse(model="m", messages=HELLO, response_format=Grade) for _ in range(2)
        ]
        response = client.responses.parse(model="m", input="hello", text_format=Grade)
        with pytest.raises(ValueError, match="JSON"):
            client.chat.completions.parse(model="m", messages=HELLO, response_format=Grade)
    assert [one.choices[0].message.parsed for one in parsed] == [grade, Grade(score=8, why="ünclear")]
    assert response.output_parsed == grade


def test_parsed_tool_arguments_and_a_reply_cut_short() -> None:
    called, cut = Reply(calls=[ToolCall("search", {"query": "tides"})]), Reply("{", finish_reason="length")
    with serving(called, cut) as (_, client):
        parsed = client.chat.completions.parse(model="m", messages=HELLO, tools=TOOLS)
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(model="m", messages=HELLO, response_format=Grade)
    calls: Any = parsed.choices[0].message.tool_calls
    assert calls[0].function.parsed_arguments == {"query": "tides"}


def test_stream() -> None:
    with serving(" Hello,  dear\nworld ", Reply(["Hel", "lo"])) as (_, client):
        words, pieces = (
            list(
                client.chat.completions.create(
                    model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
                )
            )
            for _ in range(2)
        )
    said = [chunk.choices[0].delta.content or "" for chunk in words if chunk.choices]
    assert "".join(said) == " Hello,  dear\nworld "
    assert len([text for text in said if text]) == 3
    assert [chunk.choices[0].delta.content for chunk in pieces if chunk.choices] == ["", "Hel", "lo", None]
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == "stop"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 2


def test_stream_helper_of_the_sdk() -> None:
    call = ToolCall("search", {"query": "the tides of the northern sea"})
    with serving(Reply("Let me look.", calls=[call])) as (_, client):
        with client.chat.completions.stream(model="m", messages=HELLO, tools=TOOLS) as stream:
            kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert "tool_calls.function.arguments.done" in kinds
    message = final.choices[0].message
    assert message.content == "Let me look."
    calls: Any = message.tool_calls
    assert calls[0].function.parsed_arguments == {"query": "the tides of the northern sea"}


def test_completions() -> None:
    with serving("once upon", "a time") as (server, client):
        whole = client.completions.create(model="m", prompt="tell")
        chunks = list(client.completions.create(model="m", prompt=["tell"], stream=True))
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("once upon", "stop")
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a time"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert [call.last_text for call in server.calls] == ["tell", "tell"]


def test_responses_and_their_lineage() -> None:
    calls = [ToolCall("search", {"query": "tides"})]
    cut = Reply("long", finish_reason="length", usage=Usage(9, 3, cached=8))
    with serving("one", Reply(calls=calls), cut) as (server, client):
        first = client.responses.create(model="m", input="hello")
        again = client.responses.retrieve(first.id)
        second = client.responses.create(
            model="m", previous_response_id=first.id, input=[{"role": "user", "content": "and?"}]
        )
        third = client.responses.create(model="m", input="hello", store=False)
        with pytest.raises(openai.BadRequestError, match="not found"):
            client.responses.create(model="m", previous_response_id=third.id, input="more")
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_none")
    assert (first.output_text, again.output_text, first.status) == ("one", "one", "completed")
    call: Any = second.output[0]
    assert (second.previous_response_id, call.name, call.arguments) == (
        first.id,
        "search",
        '{"query": "tides"}',
    )
    assert third.status == "incomplete"
    assert third.incomplete_details is not None
    assert third.incomplete_details.reason == "max_output_tokens"
    assert third.usage is not None
    assert third.usage.input_tokens_details.cached_tokens == 8
    assert [call.last_text for call in server.calls] == ["hello", "and?", "hello", "more"]


def test_streamed_responses() -> None:
    call = ToolCall("search", {"query": "the tides of the northern sea"})
    with serving("one two", Reply("Look:", calls=[call]), Grade(score=1, why="-")) as (_, client):
        events = list(client.responses.create(model="m", input="hello", stream=True))
        with client.responses.stream(model="m", input="hello") as stream:
            kinds = [event.type for event in stream]
            called = stream.get_final_response()
        with client.responses.stream(model="m", input="hello", text_format=Grade) as stream:
            stream.until_done()
            graded = stream.get_final_response()
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "response.function_call_arguments.done" in kinds
    assert called.output_text == "Look:"
    output: Any = called.output[1]
    assert output.arguments == '{"query": "the tides of the northern sea"}'
    assert graded.output_parsed == Grade(score=1, why="-")


def test_embeddings_and_models() -> None:
    with serving() as (server, client):
        base64 = client.embeddings.create(model="e", input=["one", "two", "one"])
        floats = client.embeddings.create(model="e", input="one", dimensions=3, encoding_format="float")
        tokens = client.embeddings.create(model="e", input=[1, 2, 3])
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model="e", input=[])
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="e", input="x", dimensions=0)
        models = client.models.list()
        model = client.models.retrieve("test-model")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")
    one, two, same = (item.embedding for item in base64.data)
    assert one == same != two
    assert math.hypot(*one) == pytest.approx(1)
    assert (len(one), len(floats.data[0].embedding), len(tokens.data)) == (8, 3, 1)
    assert [one.id for one in models.data] == [model.id] == ["test-model"]
    assert not server.calls


def test_raw_responses_and_acks() -> None:
    ack = Ack(accepted=("program", "step"), resync=True)
    with serving(Reply("hi", ack=ack, headers={"X-Extra": "1"}), Reply(ack=ack)) as (_, client):
        raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        with client.chat.completions.with_streaming_response.create(
            model="m", messages=HELLO, stream=True
        ) as streaming:
            headers = streaming.headers
    assert decode_ack(raw.headers["x-llmd-ack"]) == decode_ack(headers["x-llmd-ack"]) == ack
    assert raw.headers["x-extra"] == "1"
    assert raw.parse().choices[0].message.content == "hi"


def test_failures_then_recovery() -> None:
    lines = (Failure(429, "slow down", code="rate", retry_after=0.01), Line(Failure(503), times=1), "at last")
    with serving(*lines, retries=2) as (server, client):
        said = client.chat.completions.create(model="m", messages=HELLO)
    assert said.choices[0].message.content == "at last"
    assert [call.status for call in server.calls] == [429, 503, 200]


def test_failures_that_last() -> None:
    answers = (
        Failure(401, "who?", code="invalid_api_key"),
        Failure(500, body={"detail": "not OpenAI's shape"}),
        Failure(502, body=b"<html>", headers={"content-type": "text/html"}),
    )
    with serving(*answers) as (_, client):
        with pytest.raises(openai.AuthenticationError, match=r"who\?") as refused:
            client.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.InternalServerError) as strange:
            client.responses.create(model="m", input="hello")
        with pytest.raises(openai.InternalServerError) as html:
            client.completions.create(model="m", prompt="hello")
    assert refused.value.code == "invalid_api_key"
    assert strange.value.response.json() == {"detail": "not OpenAI's shape"}
    assert html.value.response.text == "<html>"


def test_dropped_connections(caplog: pytest.LogCaptureFixture) -> None:
    lines = (Hangup(), Reply("whole", break_after=1), Reply("one two three", break_after=2))
    with serving(*lines) as (server, client):
        for _ in range(2):
            with pytest.raises(openai.APIConnectionError):
                client.chat.completions.create(model="m", messages=HELLO)
        stream = client.chat.completions.create(model="m", messages=HELLO, stream=True)
        said: list[str] = []
        with pytest.raises(Exception, match=r"peer closed|Connection error"):
            said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
        stream.close()
    assert "".join(said) in ("", "one two")
    server.wait_for(lambda: all(call.broken_off for call in server.calls))
    assert [(call.status, call.failed) for call in server.calls] == [
        (None, True),
        (None, True),
        (200, False),
    ]
    assert not caplog.records


def test_async_client() -> None:
    async def main(server: RecordingServer) -> None:
        async with AsyncOpenAI(base_url=server.base_url, api_key="k") as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(model="m", messages=HELLO) for _ in range(5))
            )
            assert {reply.choices[0].message.content for reply in replies} == {"many"}
            async with client.chat.completions.stream(model="m", messages=HELLO) as stream:
                final = await stream.get_final_completion()
            assert final.choices[0].message.content == "one by one"
            async with client.responses.stream(model="m", input="hello") as responses:
                assert (await responses.get_final_response()).output_text == "two"

    with recording_server(Line("many", times=5), "one by one", "two") as server:
        asyncio.run(main(server))


def test_bodies_that_no_server_takes() -> None:
    with serving("unused?") as (server, client):
        for body in ({"model": "m", "messages": []}, {"messages": HELLO}, [1]):
            with pytest.raises(openai.BadRequestError):
                client.post("/chat/completions", body=body, cast_to=object)
        with pytest.raises(openai.NotFoundError, match="has no POST /v1/audio/speech"):
            client.audio.speech.create(model="m", voice="alloy", input="x")
        assert client.completions.create(model="m", prompt="x").choices[0].text == "unused?"
    assert [request.status for request in server.requests] == [400, 400, 400, 404, 200]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reply(delay=-1),
        lambda: Reply(piece_delay=-1),
        lambda: Reply(break_after=-1),
        lambda: Failure(200),
        lambda: Line("x", times=0),
        lambda: Reply(headers={"x": "a\r\nb: c"}),
        lambda: Failure(headers={"x": "ü"}),
    ],
)
def test_answers_without_meaning_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must|has a status"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reply({"a": object()}),
        lambda: Reply(5),  # type: ignore[arg-type]
        lambda: ToolCall("search", {"a": object()}),
        lambda: Failure(body={"a": object()}),
    ],
)
def test_what_json_cannot_say_is_refused(make: Any) -> None:
    with pytest.raises(TypeError):
        make()
