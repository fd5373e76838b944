"""`/v1/completions`: raw prompts, in texts and in tokens."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from llmd_agents.engine import Queued, Record, ReplyText
from llmd_agents.engine.script import ScriptedReply
from llmd_agents.hints import chain
from tests.engine.served import serve

PROMPT = "Once upon a time, in a block far away, a token met another. " * 4
PATH = "/v1/completions"


@pytest.fixture(scope="module")
def shared() -> Iterator[httpx.Client]:
    with serve() as client:
        yield client


def post(client: httpx.Client, **members: Any) -> Any:
    return client.post(PATH, json={"model": "m", "prompt": PROMPT, **members}).raise_for_status().json()


def test_an_answer_says_what_chat_says_of_tokens_and_times(shared: httpx.Client) -> None:
    first = post(shared, max_tokens=7)
    again = post(shared, max_tokens=7)

    tokens = -(-len(PROMPT) // 4)
    padded = PROMPT.encode() + b"\xff" * (-len(PROMPT) % 4)
    text = ReplyText.to(padded).tokens(7).decode()
    assert first["object"] == "text_completion"
    assert first["id"].startswith("cmpl-")
    assert first["system_fingerprint"] == "llmd-agents-embedded-engine"
    assert first["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}]
    assert first["usage"] == {
        "prompt_tokens": tokens,
        "completion_tokens": 7,
        "total_tokens": tokens + 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert set(first["llmd"]) == {"modelled", "queue_s", "ttft_s", "e2e_s"}
    assert again["choices"] == first["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == (tokens - 1) // 16 * 16


@pytest.mark.parametrize(
    ("members", "length", "reason"),
    [
        ({}, 16, "length"),
        ({"max_tokens": 1000}, None, "stop"),
        ({"max_tokens": 3, "ignore_eos": True}, 3, "length"),
    ],
)
def test_length_of_the_reply(
    shared: httpx.Client, members: dict[str, Any], length: int | None, reason: str
) -> None:
    answer = post(shared, prompt="count", **members)
    natural = ReplyText.to(b"count\xff\xff\xff").natural_length
    assert answer["usage"]["completion_tokens"] == (length or natural)
    assert answer["choices"][0]["finish_reason"] == reason


def test_a_prompt_in_tokens_goes_on_where_another_ended(shared: httpx.Client) -> None:
    tokens = list(range(100, 164))
    first = post(shared, prompt=tokens)
    again = post(shared, prompt=[[*tokens, 7]])
    assert first["usage"]["prompt_tokens"] == 64
    assert again["usage"]["prompt_tokens"] == 65
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 64


def test_a_text_that_goes_on_finds_prompt_and_reply_cached(shared: httpx.Client) -> None:
    opening = "abcd" * 40
    first = post(shared, prompt=opening, max_tokens=40)
    longer = opening + first["choices"][0]["text"] + "and then"
    usage = post(shared, prompt=[longer])["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == (first["usage"]["total_tokens"] - 1) // 16 * 16


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_stream_carries_the_same_answer(shared: httpx.Client, include_usage: bool) -> None:
    whole = post(shared, max_tokens=20)
    streamed = shared.post(
        PATH,
        json={
            "model": "m",
            "prompt": PROMPT,
            "max_tokens": 20,
            "stream": True,
            "stream_options": {"include_usage": include_usage},
        },
    )
    lines = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    if include_usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 20
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1]["llmd"]["modelled"] is True
    assert all(("usage" in chunk) is include_usage for chunk in chunks)


def test_its_links_are_told_to_the_core() -> None:
    records: list[Record] = []
    value = {"model": "m", "prompt": "x" * 20_001, "tools": []}
    with serve(listener=records.append) as client:
        client.post(PATH, json=value).raise_for_status()
    queued = records[0]
    assert isinstance(queued, Queued)
    assert [end for _, end in queued.request.boundaries] == [0, 2048, 4096, 5001]
    assert [digest for digest, _ in queued.request.boundaries] == [link.digest for link in chain(value)]


@pytest.mark.parametrize(
    ("members", "param", "message"),
    [
        ({"prompt": None}, "prompt", "not empty"),
        ({"prompt": []}, "prompt", "not empty"),
        ({"prompt": ["a", "b"]}, "prompt", "several prompts"),
        ({"prompt": {"id": "x"}}, "prompt", "neither a string nor an array"),
        ({"prompt": [-1]}, "prompt", "no token id"),
        ({"prompt_embeds": "AAAA"}, "prompt", "prompt_embeds"),
        ({"n": 2}, "n", "n must be 1"),
        ({"best_of": 2}, "best_of", "best_of must be 1"),
        ({"echo": True}, "echo", "echo must be false"),
        ({"logprobs": 0}, "logprobs", "logprobs must be null"),
        ({"suffix": "x"}, "suffix", "suffix must be null"),
        ({"messages": []}, "messages", "messages must be null"),
        ({"input": "x"}, "input", "input must be null"),
        ({"tools": "x"}, "tools", "tools is not an array"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"model": 7}, "model", "must be a string"),
        ({"prompt": "x" * 40_000}, "prompt", "context length"),
    ],
)
def test_bad_requests_name_what_is_wrong(
    shared: httpx.Client, members: dict[str, Any], param: str, message: str
) -> None:
    response = shared.post(PATH, json={"model": "m", "prompt": PROMPT, **members})
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]


def test_a_script_is_followed_but_no_tool_is_called() -> None:
    scripts = {"s/json": (ScriptedReply.model_validate({"tokens": 12, "json": {"score": 7, "why": ""}}),)}
    with serve(scripts=scripts) as client:
        value = {"model": "m", "prompt": "Grade it.", "max_tokens": 12}
        answer = client.post(PATH, json=value, headers={"x-llmd-script": "s/json"}).json()
    assert json.loads(answer["choices"][0]["text"])["score"] == 7
    assert answer["usage"]["completion_tokens"] == 12


def test_the_official_client_reads_both(shared: httpx.Client) -> None:
    with openai.OpenAI(base_url=f"{shared.base_url}/v1", api_key="none") as client:
        whole = client.completions.create(model="m", prompt="Hello")
        stream = client.completions.create(model="m", prompt="Hello", stream=True)
        text = "".join(chunk.choices[0].text for chunk in stream)
        with pytest.raises(openai.BadRequestError, match="several prompts"):
            client.completions.create(model="m", prompt=["Hello", "you"])
    assert whole.choices[0].text == text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 2
