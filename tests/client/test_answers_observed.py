"""What real calls tell of themselves, on every route and however they are read: tokens, tools, outcomes."""

import asyncio
import gc
import pickle
import time
import weakref
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from llmd_agents import attach, instrument, program
from llmd_agents.client.history import StepRecord
from llmd_agents.client.run import Run
from llmd_agents.client.sender import httpx as openai_httpx
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.hints import ToolFinished, ToolStarted, decode_hints
from llmd_agents.serving import in_background
from tests.recording import Recorded, Reply, recording_server

HELLO: Any = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine() -> Any:
    with in_background(EngineServer(load_profile("tiny"), time_scale=1000)) as url:
        yield f"{url}/v1"


def only(run: Run) -> StepRecord:
    (record,) = run.history.steps
    return record


def test_tokens_of_every_way_to_read_a_chat_completion(engine: str) -> None:
    with OpenAI(base_url=engine, api_key="k") as client:
        instrument(client)
        create: Any = client.chat.completions.create
        request: Any = {"model": "m", "messages": HELLO, "max_tokens": 8}
        usage: Any = {"include_usage": True}

        def whole() -> None:
            create(**request)

        def streamed() -> None:
            list(create(**request, stream=True, stream_options=usage))

        def helper() -> None:
            with client.chat.completions.stream(**request, stream_options=usage) as stream:
                stream.until_done()

        def raw() -> None:
            client.chat.completions.with_raw_response.create(**request).parse()

        def raw_streamed() -> None:
            with client.chat.completions.with_streaming_response.create(**request) as response:
                list(response.iter_lines())

        for call in (whole, streamed, helper, raw, raw_streamed):
            with program("p") as run:
                call()
            record = only(run)
            assert record.input_tokens is not None, call
            assert record.output_tokens == 8, call
            assert (record.outcome, record.status) == ("ok", 200), call
            assert record.first_byte is not None
            assert record.ended is not None
            assert record.started <= record.first_byte <= record.ended


def test_tokens_of_the_other_routes(engine: str) -> None:
    with OpenAI(base_url=engine, api_key="k") as client:
        instrument(client)
        with program("p") as run:
            client.completions.create(model="m", prompt="hello", max_tokens=8)
            first = client.responses.create(model="m", input="hello", max_output_tokens=16)
            stream = client.responses.create(
                model="m", input="more", previous_response_id=first.id, max_output_tokens=16, stream=True
            )
            list(stream)
            client.models.list()
    assert [record.route for record in run.history.steps] == ["completions", "responses", "responses"]
    assert all(record.input_tokens and record.output_tokens for record in run.history.steps)
    assert [record.parents for record in run.history.steps] == [(), ("s1",), ("s2",)]
    assert all(record.ack is not None or record.status == 200 for record in run.history.steps)


def test_a_response_that_names_its_predecessor_continues_its_branch(engine: str) -> None:
    with OpenAI(base_url=engine, api_key="k") as client:
        instrument(client)
        seen: list[Any] = []
        client._client.event_hooks["request"].append(seen.append)
        first = client.responses.create(model="m", input="one", max_output_tokens=16)
        client.responses.create(model="m", input="another", max_output_tokens=16)
        client.responses.create(model="m", input="two", previous_response_id=first.id, max_output_tokens=16)
    hints = [decode_hints(request.headers["x-llmd-hints"]).hints for request in seen]
    assert [found.step.branch for found in hints if found] == ["b1", "b2", "b1"]
    assert hints[2] is not None
    assert hints[2].step.parents == ("s1",)


def test_async_calls_are_observed(engine: str) -> None:
    async def main() -> Run:
        async with AsyncOpenAI(base_url=engine, api_key="k") as client:
            instrument(client)
            async with program("p") as run:
                await client.chat.completions.create(model="m", messages=HELLO, max_tokens=8)
                options: Any = {"stream": True, "stream_options": {"include_usage": True}}
                async for _ in await client.chat.completions.create(
                    model="m", messages=HELLO, max_tokens=8, **options
                ):
                    pass
            return run

    run = asyncio.run(main())
    assert [(record.outcome, record.output_tokens) for record in run.history.steps] == [("ok", 8), ("ok", 8)]


def test_a_stream_that_is_given_up_is_cancelled(engine: str) -> None:
    with OpenAI(base_url=engine, api_key="k") as client:
        instrument(client)
        with program("p") as run:
            stream = client.chat.completions.create(model="m", messages=HELLO, max_tokens=50, stream=True)
            next(iter(stream))
            stream.close()
            record = only(run)
            assert record.outcome == "cancelled"
            assert record.ended is not None
            unread = client.chat.completions.create(model="m", messages=HELLO, max_tokens=50, stream=True)
            unread.close()
    assert [record.outcome for record in run.history.steps] == ["cancelled", "cancelled"]


def test_failures_are_kept_with_the_step() -> None:
    statuses = iter([500, 200, 400])

    def reply(request: Recorded) -> Reply:
        return Reply(status=next(statuses), headers={"retry-after-ms": "1"})

    with recording_server(reply) as (_, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p") as run:
            client.chat.completions.create(model="m", messages=HELLO)
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="m", messages=HELLO[1:])
    assert [(record.attempts, record.outcome, record.status) for record in run.history.steps] == [
        (2, "ok", 200),
        (1, "error", 400),
    ]


def test_a_server_that_is_gone_is_a_failure() -> None:
    with OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=1) as client:
        instrument(client)
        with program("p") as run, pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(model="m", messages=HELLO)
    record = only(run)
    assert (record.attempts, record.outcome, record.status) == (2, "error", None)


def test_a_cancelled_call_is_told_as_such() -> None:
    def reply(request: Recorded) -> Reply:
        time.sleep(0.2)
        return Reply()

    async def main(url: str) -> Run:
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            instrument(client)
            async with program("p") as run:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await client.chat.completions.create(model="m", messages=HELLO)
            return run

    with recording_server(reply) as (_, url):
        assert only(asyncio.run(main(url))).outcome == "cancelled"


def test_sizes_are_learned_from_the_servers_counts() -> None:
    counts = iter([(100, 10), (150, 20), (190, 5)])

    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.usage = lambda _: next(counts)
        instrument(client)
        said: Any = [{"role": "user", "content": "a"}]
        with program("p") as run:
            for _ in range(2):
                client.chat.completions.create(model="m", messages=said)
                said += [{"role": "assistant", "content": "fine"}, {"role": "user", "content": "more"}]
            with run.fork(1) as fork, fork.branch():
                client.chat.completions.create(model="m", messages=said)
    child = recorded.steps[2]
    assert child.extends is None
    assert [segment.tokens for segment in child.segments] == [100, 10, 40, 20, None]


def test_tools_are_foretold_when_an_answer_asks_for_them() -> None:
    asked = {"id": "call_7", "type": "function", "function": {"name": "search", "arguments": "{}"}}

    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        recorded.tool_calls = [asked]
        instrument(client)
        with program("p") as run:
            client.chat.completions.create(model="m", messages=HELLO)
            recorded.wait_for(lambda: any(isinstance(event, ToolStarted) for event in recorded.events))
            recorded.tool_calls = None
            result: Any = [{"role": "tool", "tool_call_id": "call_7", "content": "found"}]
            answer: Any = [{"role": "assistant", "content": None, "tool_calls": [asked]}]
            client.chat.completions.create(model="m", messages=[*HELLO, *answer, *result])
        recorded.wait_for(lambda: any(isinstance(event, ToolFinished) for event in recorded.events))
    assert run.history.steps[0].asked == (("call_7", "search"),)
    assert [(tool.call, tool.asked_by, tool.outcome) for tool in run.history.tools] == [
        ("call_7", "s1", "ok")
    ]


def test_a_compacted_conversation_is_reported_as_superseded() -> None:
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        said: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
        with program("p") as run:
            for _ in range(3):
                client.chat.completions.create(model="m", messages=said)
                said += [{"role": "assistant", "content": "fine"}, {"role": "user", "content": "more" * 50}]
            client.chat.completions.create(
                model="m", messages=[said[0], {"role": "user", "content": "In short: walls."}]
            )
        recorded.wait_for(lambda: any(event.type == "superseded" for event in recorded.events))
    event = next(event for event in recorded.events if event.type == "superseded")
    assert event.digest == recorded.steps[2].digest
    assert [record.superseded for record in run.history.steps] == [False, False, False, True]


def test_reading_along_changes_nothing_of_an_answer() -> None:
    text = "a ß 𝄞 " * 500
    with (
        recording_server(lambda _: Reply(text=text)) as (_, url),
        OpenAI(base_url=url, api_key="k") as client,
    ):
        bare = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        instrument(client)
        with program("p"):
            hinted = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
            assert hinted.content == bare.content
            assert hinted.http_response.read() == bare.content  # read again, from what was kept
            assert hinted.parse() == bare.parse()


ANSWER = b'{"usage":{"prompt_tokens":10,"completion_tokens":2}}'
CALL: Any = {"url": "http://one/v1/chat/completions", "json": {"model": "m", "messages": HELLO}}


def answering(library: Any, streamed: bool) -> Any:
    """A client whose transport has the answer whole, as a cache has, or streams it."""

    def answer(_: Any) -> Any:
        body = {"stream": library.ByteStream(ANSWER)} if streamed else {"content": ANSWER}
        return library.Response(200, **body)

    return attach(library.Client(transport=library.MockTransport(answer)))


@pytest.mark.parametrize("library", [httpx, openai_httpx])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_that_was_read_is_as_without_the_library(library: Any, streamed: bool) -> None:
    with answering(library, streamed) as client, program("p") as run:
        response = client.post(**CALL)
    assert only(run).input_tokens == 10
    assert pickle.loads(pickle.dumps(response)).content == ANSWER
    assert not {"iter_bytes", "aiter_bytes", "close", "aclose"} & set(vars(response))


def test_responses_are_freed_without_the_garbage_collector() -> None:
    with answering(openai_httpx, streamed=True) as client, program("p"):
        gc.collect()
        gc.disable()
        try:
            kept = [weakref.ref(client.post(**CALL)) for _ in range(5)]
            # httpx, unlike httpx2, makes a cycle of its own.
            assert openai_httpx.__name__ == "httpx" or not any(one() is not None for one in kept)
        finally:
            gc.enable()


def test_methods_that_others_put_on_a_response_stay(engine: str) -> None:
    """As tracers do, before the library or after it."""
    with openai_httpx.Client() as client:

        def traced(response: Any) -> None:
            real = response.iter_bytes
            response.iter_bytes = lambda *given: real(*given)

        client.event_hooks["response"].append(traced)
        attach(client)
        client.event_hooks["response"].append(traced)
        body: Any = {"model": "m", "messages": HELLO, "max_tokens": 2}
        with program("p") as run:
            response = client.post(f"{engine}/chat/completions", json=body)
    assert only(run).output_tokens == 2
    assert b"".join(response.iter_bytes()) == response.content
    assert "iter_bytes" in vars(response)


def hooks_of(client: Any) -> Any:
    return client.event_hooks["request"][0].__self__


def test_programs_and_clients_are_freed() -> None:
    with answering(httpx, streamed=True) as client:
        with program("p") as run:
            client.post(**CALL)
        client.post(**CALL)
        undeclared = hooks_of(client)._implicit._run
        gone = [weakref.ref(run), weakref.ref(undeclared), weakref.ref(client)]
    del run, undeclared, client
    gc.collect()
    assert [one() for one in gone] == [None, None, None]
