"""What the developer declares beats what is inferred."""

import asyncio
from collections import Counter

from pydantic_graph import GraphBuilder, StepContext

from llmd_agents import program, tool
from llmd_agents.client import current_scope
from llmd_agents.testing import Line
from llmd_agents_pydantic_ai import hinted

from .app import agents, anyone, asks, edges, served, tools


def test_a_fork_around_runs() -> None:
    with served(anyone()) as server:
        make = agents(server)
        plan, grade, judge = map(make, ("plan", "grade", "judge"))

        async def main() -> None:
            async with program("essays", priority=70) as run:
                await plan.run("?")
                async with run.fork(3, name="grade") as fork:
                    # One at a time: it looks like a sequence, and is a fork.
                    await fork.map(grade.run, ["a", "b", "c"], limit=1)
                await judge.run("?")

        asyncio.run(main())
        graph = server.graph("essays")
        graph.assert_shape("plan > fork(3: grade) > judge")
        assert graph.priority == 70


def test_a_fork_inside_a_tool() -> None:
    with served(
        asks("lead", "poll"), Line("aye", agent="voter", times=3), Line("done", agent="lead")
    ) as server:
        make = agents(server)
        lead, voter = make("lead"), make("voter")

        @lead.tool_plain
        async def poll() -> str:
            scope = current_scope()
            assert scope is not None
            async with scope.run.fork(3, name="vote") as fork:
                votes = await fork.map(voter.run, ["a", "b", "c"], limit=1)
            return str(len(votes))

        asyncio.run(lead.run("go"))
        graph = server.graph("lead")
        graph.assert_shape("lead > fork(3: voter) > lead")
        assert tools(graph) == [("poll", "ok")]


def test_a_label_and_a_loop_around_runs() -> None:
    with served(anyone()) as server:
        clerk = agents(server)("clerk")

        async def main() -> None:
            async with program("refine") as run:
                for _ in run.loop("draft", limit=2):
                    with run.label(kind="act"):
                        await clerk.run("?")

        asyncio.run(main())
        graph = server.graph("refine")
        graph.assert_shape("loop(2: clerk/act)")


def test_a_program_inside_a_tool_is_its_own() -> None:
    with served(asks("lead", "other"), Line("fine", agent="clerk"), Line("done", agent="lead")) as server:
        make = agents(server)
        lead, clerk = make("lead"), make("clerk")

        @lead.tool_plain
        async def other() -> str:
            async with program("apart"):
                return str((await clerk.run("?")).output)

        asyncio.run(lead.run("go"))
        assert {graph.name: graph.shape() for graph in server.graphs()} == {
            "lead": "lead > lead",
            "apart": "clerk",
        }


def test_a_tool_that_is_declared() -> None:
    with served(asks("clerk", "search", query="x"), Line("done", agent="clerk")) as server:
        clerk = agents(server)("clerk")

        @clerk.tool_plain
        @tool(expected="5s", result_lifetime="step")
        async def search(query: str) -> str:
            return query

        asyncio.run(clerk.run("go"))
        graph = server.graph("clerk")
        assert tools(graph) == [("search", "ok")]
        expected = graph.tools[0].expected
        assert expected == 5.0


def test_a_fork_inside_a_step_of_a_graph() -> None:
    with served(anyone()) as server:
        make = agents(server)
        plan, vote, end = map(make, ("plan", "vote", "end"))
        builder = GraphBuilder(name="g", output_type=object)

        @builder.step
        async def poll(ctx: StepContext) -> None:
            await plan.run("?")
            scope = current_scope()
            assert scope is not None
            async with scope.run.fork(2) as fork:
                await fork.map(vote.run, ["a", "b"], limit=1)

        @builder.step
        async def close(ctx: StepContext) -> None:
            await end.run("?")

        edge = builder.edge_from
        builder.add(edge(builder.start_node).to(poll), edge(poll).to(close), edge(close).to(builder.end_node))
        asyncio.run(hinted(builder.build()).run())
        assert edges(server.graph("g")) == Counter({("plan", "vote"): 2, ("vote", "end"): 2})
