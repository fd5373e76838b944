"""What others say of tools, such as the servers that they run on."""

import pytest
from openai import OpenAI

from llmd_agents import instrument, program, tool_call
from llmd_agents.client import current_run, declare_tool, tool_took
from llmd_agents.client.declared_tools import DeclaredTool, declared_tool, expectation
from llmd_agents.hints import ToolStarted
from llmd_agents.testing import Reply, ToolCall, recording_server


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmd_agents.client import declared_tools, durations

    monkeypatch.setattr(declared_tools, "_declared", type(declared_tools._declared)())
    monkeypatch.setattr(declared_tools, "_told", type(declared_tools._told)())
    monkeypatch.setattr(durations, "_learned", None)


def expected_of(name: str) -> tuple[float | None, float | None]:
    return expectation(declared_tool(name) or DeclaredTool(name))


@pytest.mark.usefixtures("nothing_known")
def test_what_is_declared_beats_what_is_told_whichever_came_first() -> None:
    declare_tool("early", expected=1)
    for name in ("early", "late"):
        declare_tool(name, expected=9, sigma=0.5, result_lifetime=60, told=True)
    assert expected_of("late") == (9, 0.5)
    declare_tool("late", expected=2)
    assert expected_of("early") == (1, None)
    assert expected_of("late") == (2, None)


@pytest.mark.usefixtures("nothing_known")
def test_what_was_learned_beats_what_is_told() -> None:
    declare_tool("search", expected=9, sigma=0.5, result_lifetime=60, told=True)
    for _ in range(3):
        tool_took("search", 2)
    median, sigma = expected_of("search")
    assert median == 2
    assert sigma is not None
    assert sigma != 0.5


@pytest.mark.usefixtures("nothing_known")
def test_it_is_foretold_when_an_answer_asks_for_the_tool_and_where_none_does() -> None:
    declare_tool("search", expected=9, sigma=0.5, result_lifetime=60, told=True)
    with recording_server(Reply(calls=[ToolCall("search", {})])) as server:
        with instrument(OpenAI(base_url=server.base_url, api_key="none")) as client, program("p") as run:
            assert current_run() is run
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
            for _ in range(2):  # what was asked for, and another
                with tool_call("search"):
                    pass
        server.settle()
        told = [event for event in server.events if isinstance(event, ToolStarted)]
    assert current_run() is None
    assert [(event.expected, event.sigma, event.result_lifetime) for event in told] == [(9, 0.5, 60)] * 2
