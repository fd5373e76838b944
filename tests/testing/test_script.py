"""Scripts: which line a call takes, and what happens when the program does not keep to them."""

import re
import threading
from typing import Any

import openai
import pytest
from openai import OpenAI

from llmd_agents import instrument, program
from llmd_agents.testing import (
    Failure,
    Line,
    RecordedRequest,
    RecordingServer,
    Reply,
    Script,
    ScriptError,
    recording_server,
)


def ask(client: OpenAI, text: str, model: str = "m") -> str | None:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages).choices[0].message.content


def client_of(server: RecordingServer) -> OpenAI:
    return instrument(OpenAI(base_url=server.base_url, api_key="k"))


def test_without_a_script_every_call_is_answered() -> None:
    with recording_server() as server, client_of(server) as client:
        assert [ask(client, "a"), ask(client, "b")] == ["fine", "fine"]


def test_lines_are_taken_in_order_and_lines_with_conditions_by_their_calls() -> None:
    lines: tuple[Any, ...] = (
        Line("judged", kind="judge"),
        "first",
        Line("planned", kind="plan", agent="planner"),
        Line("big", model="large"),
        Line("tides", says="tide"),
        Line("number", says=re.compile(r"\d{3}")),
        Line("long", where=lambda request: len(request.body) > 1000),
        Line("branch", branch="f1.1"),
        "second",
        Line("whatever", times=None),
    )
    with recording_server(*lines) as server, client_of(server) as client, program("p") as run:
        assert ask(client, "x") == "first"
        with run.label(kind="plan", agent="planner"):
            assert ask(client, "x") == "planned"
        with run.fork(2) as fork:
            said = []
            for _ in range(2):
                with fork.branch():
                    said.append(ask(client, "x"))
        assert said == ["second", "branch"]
        assert ask(client, "x", model="large") == "big"
        assert ask(client, "the tides") == "tides"
        assert ask(client, "call 911") == "number"
        assert ask(client, "y" * 1000) == "long"
        with run.label(kind="judge"):
            assert ask(client, "x") == "judged"
        assert [ask(client, "x"), ask(client, "x")] == ["whatever", "whatever"]


def test_an_answer_made_from_the_request() -> None:
    def echo(request: RecordedRequest) -> Reply:
        return Reply(request.last_text.upper())

    with recording_server(Line(echo, times=2)) as server, client_of(server) as client:
        assert [ask(client, "a"), ask(client, "b")] == ["A", "B"]


def test_lines_that_nobody_took_are_named() -> None:
    lines = ("one", Line("two" * 40, kind="judge", times=3), Line(Failure(503), says=re.compile("x")))
    with (
        pytest.raises(ScriptError) as raised,
        recording_server(*lines) as server,
        client_of(server) as client,
    ):
        ask(client, "a")
    assert str(raised.value) == (
        "the program did not keep to the script:\n"
        f"  - line 2 was taken 0 of 3 times: '{'two' * 20}…' for kind='judge'\n"
        "  - line 3 was taken 0 of 1 times: failure 503 for says='x'"
    )


def test_a_call_without_a_line_is_told_so_and_so_is_the_test() -> None:
    with (
        pytest.raises(ScriptError, match="no line is left") as raised,
        recording_server(Line("x", kind="plan", times=None)) as server,
        client_of(server) as client,
        program("p") as run,
        run.label(kind="act", agent="worker"),
        pytest.raises(openai.BadRequestError, match="kind='act'") as refused,
    ):
        ask(client, "go on " * 20)
    assert refused.value.code == "no_line_in_script"
    assert len(server.calls) == 1
    assert str(raised.value) == (
        "the program did not keep to the script:\n"
        "  - no line is left for /v1/chat/completions (model='m', kind='act', agent='worker', branch='main') "
        f"that says '{'go on ' * 10}…'"
    )


def test_an_exception_of_the_block_is_not_replaced_but_annotated() -> None:
    with pytest.raises(ZeroDivisionError) as raised, recording_server("one"):
        raise ZeroDivisionError
    assert "line 1 was taken 0 of 1 times" in raised.value.__notes__[0]
    with pytest.raises(KeyboardInterrupt), recording_server("one"):
        raise KeyboardInterrupt


def test_functions_that_raise_are_told() -> None:
    def broken(_: RecordedRequest) -> bool:
        raise ZeroDivisionError("oh")

    with (
        pytest.raises(ScriptError, match="ZeroDivisionError"),
        recording_server(Line("x", where=broken, times=None)) as server,
        client_of(server) as client,
        pytest.raises(openai.BadRequestError, match="line 1 raised ZeroDivisionError"),
    ):
        ask(client, "a")


def test_lines_can_be_added_while_the_program_runs() -> None:
    with recording_server("one") as server, client_of(server) as client:
        assert ask(client, "a") == "one"
        server.script.add(Line("two", says="b"), "three")
        assert [ask(client, "a"), ask(client, "b")] == ["three", "two"]


def test_an_answer_waits_until_the_test_lets_it_go() -> None:
    gate = threading.Event()
    said: list[str | None] = []
    lines = (Line(Reply("late", until=gate), says="a"), "early")
    with recording_server(*lines) as server, client_of(server) as client:
        waiting = threading.Thread(target=lambda: said.append(ask(client, "a")))
        waiting.start()
        server.wait_for(lambda: len(server.calls) == 1)
        said.append(ask(client, "b"))
        gate.set()
        waiting.join()
    assert said == ["early", "late"]


def test_problems_are_bounded() -> None:
    script = Script(Line("x", kind="never", times=None))
    for index in range(50):
        request = RecordedRequest("POST", "/v1/completions", {}, b'{"model": "%d"}' % index, at=0.0)
        assert isinstance(script.take(request), Failure)
    assert len(script.problems) == 20
    assert "model='49'" in script.problems[-1]
