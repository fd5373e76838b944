"""One agent: its model calls, tools and outputs, however it is run."""

import asyncio
import os
from typing import Any
from unittest.mock import patch

import pytest
from openai import DefaultAsyncHttpxClient
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, ToolOutput
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.openai import OpenAIProvider

from llmd_agents import attach
from llmd_agents.client import end_threads
from llmd_agents.testing import Failure, Line, RecordingServer, Reply, ToolCall
from llmd_agents_pydantic_ai import ProgramHints

from .app import AnyAgent, agents, asks, edges, model, own_loop, provider, served, tools


def with_tools(server: RecordingServer, **more: Any) -> AnyAgent:
    agent = agents(server)("clerk", **more)

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    @agent.tool_plain
    async def look_up(a: int, b: int) -> str:
        await asyncio.sleep(0)
        return f"{a} of {b}"

    return agent


TWICE = (
    asks("clerk", "add", "look_up", a=1, b=2),
    asks("clerk", "add", a=3, b=4),
    Line("done", agent="clerk"),
)


def check(server: RecordingServer) -> None:
    graph = server.graph("clerk")
    graph.assert_shape("clerk > clerk > clerk")
    assert tools(graph) == [("add", "ok"), ("look_up", "ok"), ("add", "ok")]
    assert graph.outcome == "ok"
    assert graph.forks == []


async def by_run(agent: AnyAgent) -> None:
    assert (await agent.run("go")).output == "done"


async def by_stream(agent: AnyAgent) -> None:
    async with agent.run_stream("go") as result:
        assert [text async for text in result.stream_text()][-1] == "done"


async def by_events(agent: AnyAgent) -> None:
    async with agent.run_stream_events("go") as events:
        kinds = [event.event_kind async for event in events]
    assert kinds[-1] == "agent_run_result"


async def by_iter(agent: AnyAgent) -> None:
    async with agent.iter("go") as run:
        async for _ in run:
            pass
    assert run.result is not None
    assert run.result.output == "done"


@pytest.mark.parametrize("way", [by_run, by_stream, by_events, by_iter])
def test_tools_and_steps(way: Any) -> None:
    with served(*TWICE) as server:
        asyncio.run(way(with_tools(server)))
        check(server)


def test_synchronously() -> None:
    with served(*TWICE) as server, own_loop():
        assert with_tools(server).run_sync("go").output == "done"
        check(server)


def test_streamed_synchronously() -> None:
    with served(*TWICE) as server, own_loop():
        with with_tools(server).run_stream_sync("go") as result:
            assert list(result.stream_text())[-1] == "done"
        check(server)


def test_responses() -> None:
    with served(
        Line(Reply(calls=[ToolCall("add", {"a": 1, "b": 2})])), Line("done", agent="clerk")
    ) as server:
        responses = OpenAIResponsesModel("m", provider=provider(server))
        agent = Agent(responses, name="clerk", capabilities=[ProgramHints()])

        @agent.tool_plain
        def add(a: int, b: int) -> int:
            return a + b

        asyncio.run(by_run(agent))
        assert {call.path for call in server.calls} == {"/v1/responses"}
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk")
        assert tools(graph) == [("add", "ok")]


def test_a_model_by_its_name() -> None:
    with served("done") as server:
        environment = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "none"}
        with patch.dict(os.environ, environment):
            agent = Agent("openai-chat:gpt-5", name="clerk", capabilities=[ProgramHints()])

            async def main() -> None:
                async with agent:
                    await by_run(agent)

            asyncio.run(main())
        server.graph("clerk").assert_shape("clerk")


def test_models_around_models() -> None:
    with served(Failure(400, "no"), "done") as server:
        several = FallbackModel(ConcurrencyLimitedModel(model(server), limiter=2), model(server))
        asyncio.run(by_run(Agent(several, name="clerk", capabilities=[ProgramHints()])))
        # The same call to another model is another attempt at the same step.
        assert [(step.label, step.attempts) for step in server.graph("clerk").steps] == [("clerk", 2)]


def test_a_model_without_openai() -> None:
    with served() as server:
        agent = Agent(TestModel(custom_output_text="done"), name="clerk", capabilities=[ProgramHints()])
        asyncio.run(by_run(agent))
        assert server.requests == []


def test_hints_go_to_no_other_hosts() -> None:
    with served("done") as server:
        http_client = attach(DefaultAsyncHttpxClient(), hosts=["router.example"])
        of_host = OpenAIProvider(base_url=server.base_url, api_key="none", http_client=http_client)
        agent = Agent(OpenAIChatModel("m", provider=of_host), name="clerk", capabilities=[ProgramHints()])

        async def main() -> None:
            async with http_client:
                await by_run(agent)

        asyncio.run(main())
        assert [call.hints for call in server.calls] == [None]


def test_an_agent_without_a_name_is_named_by_its_variable() -> None:
    with served("done") as server:
        registrar = Agent(model(server), capabilities=[ProgramHints()])

        async def main() -> None:
            await registrar.run("go")

        asyncio.run(main())
        server.graph("registrar").assert_shape("registrar")


def test_a_capability_given_twice_counts_once() -> None:
    with served(*TWICE) as server:
        agent = with_tools(server)

        async def main() -> None:
            await agent.run("go", capabilities=[ProgramHints(), ProgramHints()])

        asyncio.run(main())
        check(server)
    with served(asks("clerk", "add", a=1, b=2), Line("done", agent="clerk")) as server:
        twice = Agent(model(server), name="clerk", capabilities=[ProgramHints(), ProgramHints(id="another")])
        twice.tool_plain(add)
        asyncio.run(by_run(twice))
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk")
        assert tools(graph) == [("add", "ok")]


def add(a: int, b: int) -> int:
    return a + b


class Address(BaseModel):
    street: str


def test_an_output_tool_is_answered() -> None:
    with served(
        Line(Reply(calls=[ToolCall("final_result", {"street": 7})])),  # not valid: asked again
        Line(Reply(calls=[ToolCall("final_result", {"street": "Quay"})])),
    ) as server:
        result = asyncio.run(agents(server)("clerk", output_type=Address).run("go"))
        assert result.output == Address(street="Quay")
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk")
        assert tools(graph) == [("final_result", "ok"), ("final_result", "ok")]


def test_an_output_function_hands_over() -> None:
    with served(
        Line(Reply(calls=[ToolCall("final_result", {"question": "?"})]), agent="clerk"),
        Line("no", agent="expert"),
        Line(Reply(calls=[ToolCall("final_result", {"question": "!"})]), agent="clerk"),
        Line("yes", agent="expert"),
    ) as server:
        make = agents(server)
        expert = make("expert")

        async def hand_over(question: str) -> str:
            output = str((await expert.run(question)).output)
            if output == "no":
                raise ModelRetry("ask something else")
            return output

        result = asyncio.run(make("clerk", output_type=ToolOutput(hand_over, name="final_result")).run("go"))
        assert result.output == "yes"
        graph = server.graph("clerk")
        graph.assert_shape("clerk > expert > clerk > expert")
        assert tools(graph) == [("final_result", "error"), ("final_result", "ok")]


def test_two_runs_at_once_are_two_programs() -> None:
    with served(
        *(Line(Reply(calls=[ToolCall("add", {"a": n, "b": n})]), says=f"go {n}") for n in range(2)),
        Line("done", times=2),
    ) as server:
        agent = with_tools(server)

        async def main() -> None:
            await asyncio.gather(*(agent.run(f"go {n}") for n in range(2)))

        asyncio.run(main())
        graphs = server.graphs()
        assert [graph.shape() for graph in graphs] == ["clerk > clerk", "clerk > clerk"]
        assert [tools(graph) for graph in graphs] == [[("add", "ok")], [("add", "ok")]]
        assert len({graph.id for graph in graphs}) == 2


def test_a_conversation_is_one_program() -> None:
    with served(Line("fine", times=None)) as server:
        agent = agents(server)("clerk")

        async def main() -> None:
            messages = (await agent.run("one", conversation_id="chat of eve@example.org")).all_messages()
            for text in ("two", "three"):
                messages = (await agent.run(text, message_history=messages)).all_messages()
            await agent.run("another", message_history=messages, conversation_id="new")

        asyncio.run(main())
        end_threads()
        graphs = server.graphs()
        assert [graph.shape() for graph in graphs] == ["clerk > clerk > clerk", "clerk"]
        assert "eve" not in graphs[0].id


def test_a_conversation_that_nobody_named_is_known_from_its_second_run_on() -> None:
    with served(Line("fine", times=None)) as server:
        agent = agents(server)("clerk")

        async def main() -> None:
            conversation = (await agent.run("one")).conversation
            for text in ("two", "three"):
                conversation = (await agent.run(text, conversation=conversation)).conversation

        asyncio.run(main())
        end_threads()
        assert [graph.shape() for graph in server.graphs()] == ["clerk", "clerk > clerk"]


def test_edges_of_a_run_are_counted() -> None:
    with served(*TWICE) as server:
        asyncio.run(by_run(with_tools(server)))
        assert edges(server.graph()) == {("clerk", "clerk"): 2}
