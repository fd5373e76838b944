"""`/v1/responses`: items in, items out, and responses that are stored to be continued."""

import asyncio
import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from llmd_agents.engine import EngineServer, Queued, Record
from llmd_agents.engine.script import Script, ScriptedCall, ScriptedReply
from llmd_agents.engine.stored_responses import StoredResponse, StoredResponses
from llmd_agents.hints import chain, lineage_digest
from tests.engine.served import TINY, serve
from tests.engine.test_feed import subscribed

PATH = "/v1/responses"
HELLO: Any = {"role": "user", "content": "Hello, engine. " * 20}
ON: Any = {"role": "user", "content": "Go on."}
TOOLS = [{"type": "function", "name": "search", "parameters": {"type": "object"}, "strict": False}]
SCRIPTS: dict[str, Script] = {
    "s/turn": (
        ScriptedReply(
            tokens=60,
            calls=(
                ScriptedCall(name="search", arguments={"query": "tides"}),
                ScriptedCall(name="search", arguments={"query": "moon"}),
            ),
        ),
        ScriptedReply.model_validate({"tokens": 40, "json": {"score": 7, "why": ""}}),
    )
}
TURN = {"x-llmd-script": "s/turn"}


@pytest.fixture(scope="module")
def shared() -> Iterator[httpx.Client]:
    with serve(scripts=SCRIPTS) as client:
        yield client


@pytest.fixture(scope="module")
def official(shared: httpx.Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared.base_url}/v1", api_key="none") as client:
        yield client


def post(client: httpx.Client, **members: Any) -> Any:
    return client.post(PATH, json={"model": "m", **members}).raise_for_status().json()


def cached(response: Any) -> int:
    return int(response["usage"]["input_tokens_details"]["cached_tokens"])


def text(response: Any) -> str:
    return str(response["output"][0]["content"][0]["text"])


def events(response: httpx.Response) -> list[Any]:
    found = []
    for event in response.text.split("\n\n"):
        if event:
            name, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def test_an_answer_is_what_a_chat_would_be_answered(shared: httpx.Client) -> None:
    chat = {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, HELLO]}
    said = shared.post("/v1/chat/completions", json=chat).json()
    answer = post(shared, instructions="Be brief.", input=HELLO["content"], metadata={"a": "b"}, user=None)

    assert text(answer) == said["choices"][0]["message"]["content"]
    assert answer["usage"]["input_tokens"] == said["usage"]["prompt_tokens"]
    assert answer["usage"]["output_tokens"] == said["usage"]["completion_tokens"]
    assert answer["usage"]["total_tokens"] == said["usage"]["total_tokens"]
    assert cached(answer) == (said["usage"]["prompt_tokens"] - 1) // 16 * 16
    assert (answer["status"], answer["error"], answer["incomplete_details"]) == ("completed", None, None)
    assert answer["system_fingerprint"] == "llmd-agents-embedded-engine"
    assert set(answer["llmd"]) == {"modelled", "queue_s", "ttft_s", "e2e_s"}
    assert (answer["instructions"], answer["metadata"]) == ("Be brief.", {"a": "b"})
    assert Response.model_validate(answer).output_text == text(answer)


def test_a_reply_that_is_cut_is_incomplete(shared: httpx.Client) -> None:
    answer = post(shared, input="Cut me.", max_output_tokens=3)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["usage"]["output_tokens"] == 3
    last = events(shared.post(PATH, json={"input": "Cut me.", "max_output_tokens": 3, "stream": True}))[-1]
    assert last["type"] == "response.incomplete"
    assert text(last["response"]) == text(answer)


def test_a_stream_tells_the_same_in_openais_events(shared: httpx.Client) -> None:
    whole = post(shared, input=[HELLO])
    told = events(shared.post(PATH, json={"model": "m", "input": [HELLO], "stream": True}))

    for event in told:
        TypeAdapter(ResponseStreamEvent).validate_python(event)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    kinds = [event["type"].removeprefix("response.") for event in told]
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]  # fmt: skip
    deltas = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text(whole) == text(told[-1]["response"])
    assert {event["response"]["id"] for event in told if "response" in event} == {told[0]["response"]["id"]}
    assert told[-1]["response"]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_a_continued_response_equals_the_whole_conversation_sent_again(shared: httpx.Client) -> None:
    first = post(shared, instructions="Be brief.", input=[HELLO])
    second = post(shared, instructions="Be brief.", input=[ON], previous_response_id=first["id"])
    replayed = post(shared, instructions="Be brief.", input=[HELLO, *first["output"], ON])

    assert second["previous_response_id"] == first["id"]
    assert text(second) == text(replayed)
    assert second["usage"]["input_tokens"] == replayed["usage"]["input_tokens"]
    assert cached(second) == (first["usage"]["total_tokens"] - 1) // 16 * 16
    assert cached(replayed) == (second["usage"]["input_tokens"] - 1) // 16 * 16


def test_instructions_are_not_carried_over(shared: httpx.Client) -> None:
    first = post(shared, instructions="Be brief.", input=[HELLO])
    other = post(shared, instructions="Be loud.", input=[ON], previous_response_id=first["id"])
    none = post(shared, input=[ON], previous_response_id=first["id"])
    assert text(other) == text(post(shared, instructions="Be loud.", input=[HELLO, *first["output"], ON]))
    assert text(none) == text(post(shared, input=[HELLO, *first["output"], ON]))


def test_a_response_can_be_continued_twice_and_further(shared: httpx.Client) -> None:
    first = post(shared, input=[HELLO])
    seconds = [post(shared, input=said, previous_response_id=first["id"]) for said in ("One", "Two")]
    third = post(shared, input="Three", previous_response_id=seconds[0]["id"])
    one, three = ({"role": "user", "content": said} for said in ("One", "Three"))
    replayed = post(shared, input=[HELLO, *first["output"], one, *seconds[0]["output"], three])
    assert text(seconds[0]) != text(seconds[1])
    assert text(third) == text(replayed)


@pytest.mark.parametrize("stream", [True, False])
def test_tools_are_called_and_their_results_taken(
    official: openai.OpenAI, shared: httpx.Client, stream: bool
) -> None:
    # A salt of its own, so that nothing is cached at first.
    salted = {"cache_salt": f"stream {stream}"}
    asked: Any = {"model": "m", "tools": TOOLS, "extra_headers": TURN, "extra_body": salted}
    if stream:
        with official.responses.stream(**asked, input=[HELLO]) as streamed:
            first: Any = streamed.get_final_response()
    else:
        first = official.responses.create(**asked, input=[HELLO])
    calls = [json.loads(item.arguments) for item in first.output if item.type == "function_call"]
    assert [set(call) for call in calls] == [{"query"}, {"query"}]
    assert calls[0] == {"query": "tides"}
    assert calls[1]["query"].startswith("moon")
    assert {item.status for item in first.output} == {"completed"}
    results: Any = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "high"} for item in first.output
    ]

    class Grade(BaseModel):
        score: int
        why: str

    second = official.responses.parse(
        **asked, input=results, previous_response_id=first.id, text_format=Grade
    )
    replayed = official.responses.create(**asked, input=[HELLO, *first.output, *results])
    assert second.output_parsed is not None
    assert second.output_parsed.score == 7
    assert replayed.output_text == second.output_text
    assert first.usage is not None
    assert second.usage is not None
    assert replayed.usage is not None
    assert second.usage.input_tokens == replayed.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens == (first.usage.total_tokens - 1) // 16 * 16


def test_the_stream_of_calls_tells_one_after_the_other(shared: httpx.Client) -> None:
    value = {"model": "m", "input": [HELLO], "tools": TOOLS, "stream": True}
    told = events(shared.post(PATH, json=value, headers=TURN))
    for event in told:
        TypeAdapter(ResponseStreamEvent).validate_python(event)
    kinds = [event["type"].removeprefix("response.") for event in told]
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        "created",
        "in_progress",
        *call,
        *call,
        "completed",
    ]
    output = told[-1]["response"]["output"]
    for index, item in enumerate(output):
        of_item = [event for event in told if event.get("output_index") == index]
        assert "".join(event.get("delta", "") for event in of_item) == item["arguments"]
        assert of_item[-1]["item"] == item


def test_a_call_that_is_cut_is_incomplete(shared: httpx.Client) -> None:
    value = {"model": "m", "input": [HELLO], "tools": TOOLS, "max_output_tokens": 40}
    answer = shared.post(PATH, json=value, headers=TURN).json()
    last = answer["output"][-1]
    assert (answer["status"], last["status"]) == ("incomplete", "incomplete")
    told = events(shared.post(PATH, json={**value, "stream": True}, headers=TURN))
    assert told[-1]["response"]["output"][-1]["arguments"] == last["arguments"]
    assert told[-2]["item"]["status"] == "incomplete"


def test_its_links_and_its_lineage_reach_the_core_and_residency() -> None:
    records: list[Record] = []
    body = {"model": "m", "instructions": "Be brief. " * 20, "input": [HELLO]}
    with serve(listener=records.append, epoch="e") as client, subscribed(client) as batches:
        next(batches)
        first = post(client, **body)
        following = {**body, "previous_response_id": first["id"], "input": [ON]}
        unstored = post(client, **following, store=False)
        told = {change.digest: change.tokens for _ in range(3) for change in next(batches).changes}
    queued = [record.request for record in records if isinstance(record, Queued)]
    assert [len(request.boundaries) for request in queued] == [3, 4]
    for request, value in zip(queued, (body, following), strict=True):
        assert [digest for digest, _ in request.boundaries] == [link.digest for link in chain(value)]
    lineage = lineage_digest(body, first["id"])
    assert first["id"] == "resp_e-0"
    assert queued[0].reply == lineage
    assert told[lineage] == first["usage"]["total_tokens"] - 1
    # The next call finds it where the first has left it.
    assert dict(queued[1].boundaries)[lineage] == told[lineage]
    assert queued[1].reply is None
    assert cached(unstored) == told[lineage] // 16 * 16


def test_stored_responses_are_shown_and_deleted(official: openai.OpenAI, shared: httpx.Client) -> None:
    made = official.responses.create(model="m", input="Keep this.")
    shown = official.responses.retrieve(made.id)
    assert shown.to_dict() == made.to_dict()
    with pytest.raises(openai.BadRequestError, match="background"):
        official.responses.cancel(made.id)
    assert shared.delete(f"{PATH}/{made.id}").json()["deleted"] is True
    for gone in (
        lambda: official.responses.retrieve(made.id),
        lambda: official.responses.delete(made.id),
        lambda: official.responses.cancel(made.id),
    ):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{made.id}' not found"):
            gone()
    with pytest.raises(openai.NotFoundError) as raised:
        official.responses.create(model="m", input="On", previous_response_id=made.id)
    assert raised.value.code == "previous_response_not_found"
    assert raised.value.param == "previous_response_id"


def test_what_is_not_to_be_stored_is_not(shared: httpx.Client) -> None:
    made = post(shared, input="Forget this.", store=False)
    assert made["store"] is False
    assert shared.get(f"{PATH}/{made['id']}").status_code == 404


def test_salts_keep_responses_apart(shared: httpx.Client) -> None:
    mine = post(shared, input="A secret.", cache_salt="mine")
    own = {"model": "m", "input": "On", "previous_response_id": mine["id"]}
    assert shared.post(PATH, json={**own, "cache_salt": "mine"}).status_code == 200
    for others in ({}, {"cache_salt": "theirs"}):
        refused = shared.post(PATH, json={**own, **others})
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "previous_response_not_found"


def stored(name: str, size: int) -> StoredResponse:
    return StoredResponse(name, b"", b"x" * size, 1, None)


def test_the_oldest_are_forgotten_beyond_the_limits() -> None:
    few = StoredResponses(most=2)
    for name in "abc":
        few.put(stored(name, 1))
    assert [few.get(name) is not None for name in "abc"] == [False, True, True]
    small = StoredResponses(max_bytes=100)
    for name in "abc":
        small.put(stored(name, 40))
    assert [small.get(name) is not None for name in "abc"] == [False, True, True]
    assert small.delete("b")
    assert not small.delete("b")
    small.put(stored("d", 60))
    assert [small.get(name) is not None for name in "abcd"] == [False, False, True, True]
    small.put(stored("e", 101))
    assert len(small) == 0


@pytest.mark.parametrize(
    ("members", "param", "message"),
    [
        ({"input": None}, "input", "non-empty array"),
        ({"input": []}, "input", "non-empty array"),
        ({"input": ["hi"]}, "input", "input[0] is not an object"),
        ({"input": {"role": "user"}}, "input", "input is not an array"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input", "keeps no items"),
        ({"input": [{"id": "msg_1"}]}, "input", "keeps no items"),
        ({"instructions": ["x"]}, "instructions", "not a string"),
        ({"previous_response_id": 7}, "previous_response_id", "not a string"),
        ({"conversation": "conv_1"}, "conversation", "must be null"),
        ({"background": True}, "background", "must be false"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "must be null"),
        ({"top_logprobs": 3}, "top_logprobs", "must be 0"),
        ({"messages": [HELLO]}, "messages", "must be null"),
        ({"tools": "x"}, "tools", "tools is not an array"),
        ({"max_output_tokens": 0}, "max_output_tokens", "at least 1"),
        ({"store": "yes"}, "store", "must be a boolean"),
        ({"stream": 1}, "stream", "must be a boolean"),
        ({"cache_salt": ""}, "cache_salt", "non-empty string"),
        ({"input": "x" * 40_000}, "input", "context length"),
    ],
)
def test_bad_requests_name_what_is_wrong(
    shared: httpx.Client, members: dict[str, Any], param: str, message: str
) -> None:
    response = shared.post(PATH, json={"model": "m", "input": [HELLO], **members})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]


def test_nesting_without_end_is_refused(shared: httpx.Client) -> None:
    deep = '{"input": [{"role": "user", "content": ' + "[" * 900 + "]" * 900 + "}]}"
    assert shared.post(PATH, content=deep).status_code in (200, 400)
    deeper = '{"input": [{"role": "user", "content": ' + "[" * 100_000 + "]" * 100_000 + "}]}"
    assert shared.post(PATH, content=deeper).status_code == 400


def test_whatever_json_can_say_is_repeated(shared: httpx.Client) -> None:
    body = (
        '{"input": "\\ud800", "instructions": "\\ud83d", "metadata": {"n": 123456789012345678901234567890}}'
    )
    made = shared.post(PATH, content=body)
    assert made.status_code == 200
    assert '"\\ud83d"' in made.text
    assert shared.get(f"{PATH}/{made.json()['id']}").text == made.text
    streamed = shared.post(PATH, content=body[:-1] + ', "stream": true}')
    assert "event: response.completed" in streamed.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", PATH, 405), ("PUT", f"{PATH}/x", 405), ("GET", f"{PATH}/", 404), ("GET", f"{PATH}/x/y", 404)],
)
def test_other_routes(shared: httpx.Client, method: str, path: str, status: int) -> None:
    assert shared.request(method, path).status_code == status


def test_a_stream_opens_before_its_prompt_is_computed_and_says_when_the_engine_stops() -> None:
    async def main() -> tuple[bytes, bytes]:
        # A step takes an hour: nothing but the opening comes.
        app = EngineServer(dataclasses.replace(TINY, step_overhead_s=3600.0))
        sent: list[bytes] = []
        opened, body = asyncio.Event(), json.dumps({"input": "x", "stream": True}).encode()
        given = iter([{"type": "http.request", "body": body}])

        async def receive() -> Any:
            for message in given:
                return message
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sent[-1]:
                opened.set()

        await app._start()
        scope = {"type": "http", "method": "POST", "path": PATH}
        call = asyncio.create_task(app(scope, receive, send))
        await opened.wait()
        opening = b"".join(sent)
        app.close()
        await call
        await app._stop()
        return opening, b"".join(sent)

    opening, whole = asyncio.run(main())
    assert opening.startswith(b"event: response.created\n")
    assert opening.count(b"\n\n") == 2
    failed = json.loads(whole.removeprefix(opening).split(b"data: ")[1])
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "server_error"


def test_the_async_client_reads_streams_too(shared: httpx.Client) -> None:
    async def main() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{shared.base_url}/v1", api_key="none") as client:
            whole = await client.responses.create(model="m", input="Hello")
            async with client.responses.stream(model="m", input="Hello") as stream:
                final = await stream.get_final_response()
            parts = ""
            async for event in await client.responses.create(model="m", input="Hello", stream=True):
                parts += event.delta if event.type == "response.output_text.delta" else ""
        assert whole.output_text == parts
        return whole.output_text, final.output_text

    whole, final = asyncio.run(main())
    assert whole == final
