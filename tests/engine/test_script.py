"""Scripted replies, as the openai package reads them: words, calls of tools and JSON, streamed and whole."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from pydantic import BaseModel

from llmd_agents.engine import EngineServer
from llmd_agents.engine.reply_text import ReplyText
from llmd_agents.engine.said import say
from llmd_agents.engine.script import ScriptedReply, ScriptError, packaged_scripts, read_scripts, reply_to
from llmd_agents.serving import in_background
from tests.stack.servers import FAST, small_profile

SCRIPTS = """
[agent]
replies = [
  { tokens = 60, calls = [{ name = "search", arguments = { query = "tides: ", limit = 3 } }] },
  { tokens = 90, calls = [
    { name = "search", arguments = { query = "a" } },
    { name = "look", arguments = { place = "Dünen" } },
  ] },
  { tokens = 20 },
]

[grade]
replies = [{ tokens = 50, json = { score = 7, rationale = "" } }]

[bare]
replies = [{ tokens = 10, json = { score = 7 } }]
"""

TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("search", "look")
]
HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("scripts") / "mine.toml"
    path.write_text(SCRIPTS)
    engine = EngineServer(small_profile(), time_scale=FAST, scripts=read_scripts(path))
    with in_background(engine) as base:
        yield f"{base}/v1"


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key="k") as client:
        yield client


def headers(name: str) -> Any:
    return {"x-llmd-script": name}


class Grade(BaseModel):
    score: int
    rationale: str


def test_a_conversation_with_tools(client: OpenAI) -> None:
    messages: list[Any] = list(HELLO)

    def turn() -> Any:
        return client.chat.completions.create(
            model="m", messages=messages, tools=TOOLS, extra_headers=headers("mine/agent")
        )

    first = turn()
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    assert message.content is None
    (call,) = message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "search"
    assert arguments["limit"] == 3
    assert arguments["query"].startswith("tides: ")
    assert first.usage.completion_tokens == 60

    messages += [message.model_dump(exclude_none=True)]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "nothing"}]
    second = turn()
    # What was said is what the next prompt renders: it is found in the cache, but for the last block.
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.total_tokens - 17
    names = [call.function.name for call in second.choices[0].message.tool_calls]
    assert names == ["search", "look"]
    assert json.loads(second.choices[0].message.tool_calls[1].function.arguments)["place"].startswith("Dünen")

    messages += [second.choices[0].message]
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": "nothing"}
        for call in second.choices[0].message.tool_calls
    ]
    third, fourth = turn(), None
    assert third.choices[0].finish_reason == "stop"
    assert third.usage.completion_tokens == 20
    messages.append(third.choices[0].message)
    fourth = turn()  # the last reply answers all later turns
    assert fourth.usage.completion_tokens == 20


def test_streamed_calls_are_put_together_as_they_were_said(client: OpenAI) -> None:
    messages: Any = [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "go on"}]
    request: Any = {
        "model": "m",
        "messages": messages,
        "tools": TOOLS,
        "extra_headers": headers("mine/agent"),
    }
    whole = client.chat.completions.create(**request).choices[0]
    with client.chat.completions.stream(**request) as stream:
        events = list(stream)
        streamed = stream.get_final_completion().choices[0]
    assert len(events) > 2
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    said = [(call.id, call.function.name, call.function.arguments) for call in whole.message.tool_calls or ()]
    got = [
        (call.id, call.function.name, call.function.arguments) for call in streamed.message.tool_calls or ()
    ]
    assert got == said


@pytest.mark.parametrize("streamed", [False, True])
def test_json_is_parsed_by_the_sdk(client: OpenAI, streamed: bool) -> None:
    request: Any = {"model": "m", "messages": HELLO, "extra_headers": headers("mine/grade")}
    if streamed:
        with client.chat.completions.stream(response_format=Grade, **request) as stream:
            grade = stream.get_final_completion().choices[0].message.parsed
    else:
        reply = client.chat.completions.parse(response_format=Grade, **request)
        grade = reply.choices[0].message.parsed
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 50
    assert grade is not None
    assert grade.score == 7
    assert grade.rationale


def test_without_tools_on_offer_there_are_words(client: OpenAI) -> None:
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        reply: Any = client.chat.completions.create(
            model="m", messages=HELLO, extra_headers=headers("mine/agent"), **more
        )
        assert reply.choices[0].message.tool_calls is None
        assert reply.usage.completion_tokens == 60
        assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["nobody/knows", "", "mine", "x" * 5000])
def test_an_unknown_script_changes_nothing(client: OpenAI, name: str) -> None:
    plain = client.chat.completions.create(model="m", messages=HELLO)
    scripted = client.chat.completions.create(
        model="m",
        messages=HELLO,
        extra_headers={"x-llmd-script": name.encode("latin-1")},  # type: ignore[dict-item]
    )
    assert scripted.choices == plain.choices


def test_max_tokens_cuts_what_is_said(client: OpenAI) -> None:
    for name in ("mine/agent", "mine/grade"):
        reply: Any = client.chat.completions.create(
            model="m", messages=HELLO, tools=TOOLS, max_tokens=30, extra_headers=headers(name)
        )
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 30
    longer: Any = client.chat.completions.create(
        model="m",
        messages=HELLO,
        max_tokens=70,
        extra_body={"ignore_eos": True},
        extra_headers=headers("mine/grade"),
    )
    assert longer.usage.completion_tokens == 70
    assert json.loads(longer.choices[0].message.content)["score"] == 7


@pytest.mark.parametrize("length", [1, 10, 40, 41, 42, 43, 500])
def test_replies_are_as_long_as_asked_or_as_what_they_must_say(length: int) -> None:
    words = ReplyText.to(b"prompt")
    call = ScriptedReply.model_validate({"calls": [{"name": "f", "arguments": {"q": ""}}]})
    value = ScriptedReply.model_validate({"json": {"n": 1}})
    least = len(say(words, call, 1, tools=True))
    assert len(say(words, call, length, tools=True)) == max(length, least)
    assert len(say(words, value, length, tools=True)) == max(length, 2)
    assert len(say(words, None, length, tools=True)) == length


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("= 1", "not TOML"),
        ("# to be written", "holds no script"),
        ("a = 1", "a"),
        ("[a]\nreplies = []", "a.replies"),
        ("[a]\nreplies = [{ tokens = 0 }]", "a.replies.0.tokens"),
        ("[a]\nreplies = [{ say = 'x' }]", "a.replies.0.say"),
        ("[a]\nreplies = [{ json = {}, calls = [{ name = 'f' }] }]", "give either calls or json"),
    ],
)
def test_bad_files_are_refused_by_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScriptError, match=f"bad.toml: .*{message}"):
        read_scripts(path)
    with pytest.raises(ScriptError, match="No such file"):
        read_scripts(tmp_path / "none.toml")


def test_the_demo_programs_have_their_scripts() -> None:
    assert set(packaged_scripts()) == {
        *(f"tree-of-thought/{step}" for step in ("plan", "think", "judge", "expand", "answer")),
        "react/turn",
        *(f"swarm/{step}" for step in ("plan", "grade", "report")),
        *(f"pipeline/{step}" for step in ("researcher", "analyst", "writer")),
    }
    react = packaged_scripts()["react/turn"]
    assert len(react) == 13
    assert reply_to(react, 20) is react[-1]
