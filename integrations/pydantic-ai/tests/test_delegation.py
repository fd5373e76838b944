"""Agents that run within other agents' tools."""

import asyncio
import threading
from collections import Counter

from pydantic_ai import Agent, UsageLimits

from llmd_agents import program
from llmd_agents.testing import Line, RecordingServer, Reply, ToolCall

from .app import AnyAgent, agents, asks, edges, served, tools


def boss(server: RecordingServer) -> AnyAgent:
    """Returns an agent that may ask a historian, and a geographer who asks a librarian in turn."""
    make = agents(server)
    lead, historian, geographer, librarian = map(make, ("lead", "historian", "geographer", "librarian"))

    @lead.tool_plain
    async def history(about: str) -> str:
        return str((await historian.run(about)).output)

    @lead.tool_plain
    async def geography(about: str) -> str:
        return str((await geographer.run(about)).output)

    @geographer.tool_plain
    async def maps(about: str) -> str:
        return str((await librarian.run(about)).output)

    return lead


def test_one_after_the_other() -> None:
    with served(
        asks("lead", "history", about="x"),
        Line("1066", agent="historian"),
        asks("lead", "geography", about="x"),
        Line("an island", agent="geographer"),
        Line("done", agent="lead"),
    ) as server:
        asyncio.run(boss(server).run("go"))
        graph = server.graph("lead")
        graph.assert_shape("lead > historian > lead > geographer > lead")
        assert edges(graph) == Counter(
            [("lead", "historian"), ("historian", "lead"), ("lead", "geographer"), ("geographer", "lead")]
        )
        assert tools(graph) == [("history", "ok"), ("geography", "ok")]
        assert graph.outcome == "ok"


def historian_answers(answered: threading.Event) -> str:
    answered.set()
    return "1066"


def test_two_in_parallel_of_unequal_length() -> None:
    answered = threading.Event()
    with served(
        asks("lead", "history", "geography", about="x"),
        # The geographer goes on for longer than the historian, and does not wait for it.
        Line(Reply(calls=[ToolCall("maps", {"about": "x"})], until=answered), agent="geographer"),
        Line(lambda _: historian_answers(answered), agent="historian"),
        Line("an atlas", agent="librarian"),
        Line("an island", agent="geographer"),
        Line("done", agent="lead"),
    ) as server:
        asyncio.run(boss(server).run("go"))
        graph = server.graph("lead")
        assert edges(graph) == Counter(
            [
                ("lead", "historian"),
                ("lead", "geographer"),
                ("geographer", "librarian"),
                ("librarian", "geographer"),
                ("geographer", "lead"),
                ("historian", "lead"),
            ]
        )
        graph.assert_parallel("historian", "librarian")
        assert sorted(tools(graph)) == [("geography", "ok"), ("history", "ok"), ("maps", "ok")]
        assert len(server.graphs()) == 1


def test_one_tool_at_a_time() -> None:
    with served(
        asks("lead", "history", "geography", about="x"),
        Line("1066", agent="historian"),
        Line("an island", agent="geographer"),
        Line("done", agent="lead"),
    ) as server:
        lead = boss(server)

        async def main() -> None:
            with lead.parallel_tool_call_execution_mode("sequential"):
                await lead.run("go")

        asyncio.run(main())
        server.graph("lead").assert_shape("lead > historian > geographer > lead")


def test_several_delegates_in_one_tool() -> None:
    with served(
        asks("lead", "panel"),
        Line("one", agent="a"),
        Line("two", agent="b"),
        Line("three", agent="c"),
        Line("done", agent="lead"),
    ) as server:
        make = agents(server)
        lead, a, b, c = map(make, ("lead", "a", "b", "c"))

        @lead.tool_plain
        async def panel() -> str:
            await asyncio.gather(a.run("?"), b.run("?"))
            return str((await c.run("?")).output)

        asyncio.run(lead.run("go"))
        assert edges(server.graph("lead")) == Counter(
            [("lead", "a"), ("lead", "b"), ("a", "c"), ("b", "c"), ("c", "lead")]
        )


def test_a_delegate_that_knows_nothing_of_hints() -> None:
    with served(
        asks("lead", "history", about="x"), Line("1066", where=lambda _: True), Line("done", agent="lead")
    ) as server:
        lead = agents(server)("lead")
        historian = Agent(lead.model, name="historian")

        @lead.tool_plain
        async def history(about: str) -> str:
            return str((await historian.run(about)).output)

        asyncio.run(lead.run("go"))
        server.graph("lead").assert_shape("lead > lead > lead")


def test_a_delegate_in_a_tool_that_runs_in_a_thread() -> None:
    with served(
        asks("lead", "history", about="x"), Line("1066", agent="historian"), Line("done", agent="lead")
    ) as server:
        make = agents(server)
        lead, historian = make("lead"), make("historian")

        @lead.tool_plain
        def history(about: str) -> str:
            return str(asyncio.run(historian.run(about)).output)

        asyncio.run(lead.run("go"))
        server.graph("lead").assert_shape("lead > historian > lead")


def test_a_delegate_that_is_streamed_and_shares_usage() -> None:
    with served(
        asks("lead", "history", about="x"), Line("1066", agent="historian"), Line("done", agent="lead")
    ) as server:
        make = agents(server)
        lead, historian = make("lead"), make("historian")

        @lead.tool_plain
        async def history(about: str) -> str:
            async with historian.run_stream(about, usage_limits=UsageLimits(request_limit=3)) as result:
                return str(await result.get_output())

        asyncio.run(lead.run("go"))
        server.graph("lead").assert_shape("lead > historian > lead")


def test_agents_after_each_other_in_one_program() -> None:
    with served(Line("fine", times=None)) as server:
        make = agents(server)
        writer, critic, editor = map(make, ("writer", "critic", "editor"))

        async def main() -> None:
            async with program("magazine"):
                draft = await writer.run("write")
                await asyncio.gather(*(critic.run(text) for text in ("style", "facts")))
                await editor.run("edit", message_history=draft.all_messages())

        asyncio.run(main())
        graph = server.graph("magazine")
        assert edges(graph) == Counter(
            {("writer", "critic"): 2, ("critic", "editor"): 2},
        )
        assert len(server.graphs()) == 1
