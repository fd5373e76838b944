"""Graphs of pydantic-graph: their steps, forks, maps, joins and loops, as servers see them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from pydantic_graph import (
    BaseNode,
    End,
    EndMarker,
    GraphBuilder,
    GraphRunContext,
    ReduceFirstValue,
    StepContext,
    reduce_list_append,
    reduce_list_extend,
    reduce_null,
)

from llmd_agents import program
from llmd_agents.testing import Line, ProgramGraph, RecordingServer
from llmd_agents_pydantic_ai import hinted

from .app import MakeAgent, agents, anyone, edges, own_loop, served


class Builder:
    """Builds a graph whose steps each ask an agent of their name, and pass on what `gives` says."""

    def __init__(self, server: RecordingServer, name: str = "report") -> None:
        self.make: MakeAgent = agents(server)
        self.graph = GraphBuilder(name=name, input_type=object, output_type=object)
        self.start, self.end = self.graph.start_node, self.graph.end_node

    def step(self, name: str, gives: Any = None, *, asks: bool = True) -> Any:
        agent = self.make(name)

        async def call(ctx: StepContext) -> Any:
            if asks:
                await agent.run(name)
            return gives(ctx.inputs) if callable(gives) else gives

        return self.graph.step(node_id=name)(call)

    def chain(self, *nodes: Any) -> None:
        for one, other in pairwise(nodes):
            self.graph.add(self.graph.edge_from(one).to(other))

    def map(self, one: Any, other: Any, **more: Any) -> None:
        self.graph.add(self.graph.edge_from(one).map(**more).to(other))

    def join(self, reducer: Any = reduce_list_append, factory: Any = list, **more: Any) -> Any:
        return self.graph.join(reducer, initial_factory=factory, **more)

    def run(self, inputs: Any = None) -> Any:
        return asyncio.run(hinted(self.graph.build()).run(inputs=inputs))


def only(server: RecordingServer) -> ProgramGraph:
    graph = server.graph("report")
    assert graph.outcome == "ok"
    return graph


def test_a_chain() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        a, b, c = build.step("a"), build.step("b", asks=False), build.step("c", "end")
        build.chain(build.start, a, b, c, build.end)
        assert build.run() == "end"
        only(server).assert_shape("a > c")


def test_a_map_of_chains() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        plan, work, check = (
            build.step("plan", [3, 1, 2]),
            build.step("work", lambda n: n),
            build.step("check", 1),
        )
        join, end = build.join(), build.step("sum", lambda found: len(found))
        build.chain(build.start, plan)
        build.map(plan, work, fork_id="sections")
        build.chain(work, check, join, end, build.end)
        assert build.run() == 3
        graph = only(server)
        graph.assert_shape("plan > fork(3: work > check) > sum")
        assert graph.assert_forked(3, name="sections").joined


def test_branches_of_unequal_length() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        plan, a, b, b2, b3 = (build.step(name, name) for name in ("plan", "a", "b", "b2", "b3"))
        join, end = build.join(), build.step("sum", sorted)
        build.chain(build.start, plan)
        build.graph.add(build.graph.edge_from(plan).to(a, b, fork_id="views"))
        build.chain(a, join)
        build.chain(b, b2, b3, join, end, build.end)
        assert build.run() == ["a", "b3"]
        graph = only(server)
        assert edges(graph) == Counter(
            [("plan", "a"), ("plan", "b"), ("b", "b2"), ("b2", "b3"), ("a", "sum"), ("b3", "sum")]
        )
        graph.assert_forked(2, name="views")


def test_a_fork_at_the_beginning_and_one_right_after_a_join() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        a, b, c, d, e = (build.step(name, name) for name in "abcde")
        first, second = build.join(node_id="first"), build.join(node_id="second")
        build.graph.add(build.graph.edge_from(build.start).to(a, b, fork_id="one"))
        build.chain(a, first)
        build.chain(b, first)
        build.graph.add(build.graph.edge_from(first).to(c, d, fork_id="two"))
        build.chain(c, second)
        build.chain(d, second)
        build.chain(second, e, build.end)
        build.run()
        assert edges(only(server)) == Counter(
            [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "e"), ("d", "e")]
        )


def test_a_map_in_a_map() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        plan = build.step("plan", [[1, 2], [3]])
        chapter, section = build.step("chapter", lambda parts: parts), build.step("section", 1)
        inner = build.join(node_id="inner", preferred_parent_fork="closest")
        close, outer = (
            build.step("close", lambda found: found),
            build.join(reduce_list_extend, node_id="outer"),
        )
        end = build.step("sum", len)
        build.chain(build.start, plan)
        build.map(plan, chapter, fork_id="chapters")
        build.map(chapter, section, fork_id="sections")
        build.chain(section, inner, close, outer, end, build.end)
        assert build.run() == 3
        graph = only(server)
        graph.assert_shape(
            "plan > fork(chapter > fork(2: section) > close | chapter > section > close) > sum"
        )


def test_a_loop_by_a_decision() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        counts = iter(range(5))
        draft, judge = build.step("draft"), build.step("judge", lambda _: next(counts))
        publish, match = build.step("publish"), build.graph.match
        build.chain(build.start, draft, judge)
        build.graph.add(
            build.graph.edge_from(judge).to(
                build.graph.decision()
                .branch(match(int, matches=lambda count: count < 2).to(draft))
                .branch(match(int).to(publish))
            )
        )
        build.chain(publish, build.end)
        build.run()
        only(server).assert_shape("draft > judge > draft > judge > draft > judge > publish")


def test_a_fork_in_a_loop() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        rounds = iter([True, False])
        plan, work, judge = (
            build.step("plan", [1, 2]),
            build.step("work", 1),
            build.step("judge", lambda _: next(rounds)),
        )
        join = build.join()
        build.chain(build.start, plan)
        build.map(plan, work, fork_id="work_items")
        build.chain(work, join, judge)
        match = build.graph.match
        build.graph.add(
            build.graph.edge_from(judge).to(
                build.graph.decision()
                .branch(match(bool, matches=bool).to(plan))
                .branch(match(bool).to(build.end))
            )
        )
        build.run()
        only(server).assert_shape("plan > fork(2: work) > judge > plan > fork(2: work) > judge")


def test_the_first_of_a_map_wins() -> None:
    with served(Line("fine", times=None)) as server:
        build = Builder(server)
        agent, waits = build.make("work"), asyncio.Event()

        async def work(ctx: StepContext) -> Any:
            await agent.run("work")
            if ctx.inputs == 0:
                await waits.wait()  # is cancelled
            return ctx.inputs

        plan, end = build.step("plan", [0, 1]), build.step("sum", lambda found: found)
        join = build.join(ReduceFirstValue(), int)
        build.chain(build.start, plan)
        node = build.graph.step(node_id="work")(work)
        build.map(plan, node)
        build.chain(node, join, end, build.end)
        assert build.run() == 1
        assert edges(only(server)) == Counter({("plan", "work"): 2, ("work", "sum"): 1})


def test_a_map_of_nothing() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        plan, work, join, end = (
            build.step("plan", []),
            build.step("work"),
            build.join(),
            build.step("sum", len),
        )
        build.chain(build.start, plan)
        build.map(plan, work, downstream_join_id=join.id)
        build.chain(work, join, end, build.end)
        assert build.run() == 0
        only(server).assert_shape("plan > sum")


def test_items_that_are_all_alike() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        plan, work, check = build.step("plan", [None] * 4), build.step("work"), build.step("check")
        join, end = build.join(reduce_null, lambda: None), build.step("sum")
        build.chain(build.start, plan)
        build.map(plan, work)
        build.chain(work, check, join, end, build.end)
        build.run()
        only(server).assert_shape("plan > fork(4: work > check) > sum")


def test_agents_side_by_side_in_one_step() -> None:
    with served(anyone()) as server:
        build = Builder(server)
        a, b = build.make("a"), build.make("b")

        @build.graph.step
        async def both(ctx: StepContext) -> None:
            await asyncio.gather(a.run("?"), b.run("?"))

        end = build.step("sum")
        build.chain(build.start, both, end, build.end)
        build.run()
        assert edges(only(server)) == Counter([("a", "sum"), ("b", "sum")])


# --- nodes that are classes


@dataclass
class Draft(BaseNode[MakeAgent, None, str]):
    turn: int = 0

    async def run(self, ctx: GraphRunContext[MakeAgent, None]) -> Judge:
        await ctx.state("draft").run("?")
        return Judge(self.turn)


@dataclass
class Judge(BaseNode[MakeAgent, None, str]):
    turn: int

    async def run(self, ctx: GraphRunContext[MakeAgent, None]) -> Draft | End[str]:
        await ctx.state("judge").run("?")
        return Draft(self.turn + 1) if self.turn < 1 else End("good")


def of_classes() -> Any:
    builder = GraphBuilder(name="report", state_type=object, input_type=Draft, output_type=str)
    builder.add(builder.edge_from(builder.start_node).to(Draft), builder.node(Draft), builder.node(Judge))
    return hinted(builder.build())


def test_nodes_that_are_classes() -> None:
    with served(anyone()) as server, own_loop():
        assert of_classes().run_sync(state=agents(server), inputs=Draft()) == "good"
        only(server).assert_shape("draft > judge > draft > judge")


def test_step_by_step_within_a_program() -> None:
    with served(anyone()) as server:

        async def main() -> None:
            make = agents(server)
            with program("book"):
                await make("before").run("?")
                async with of_classes().iter(state=make, inputs=Draft()) as run:
                    told = [event async for event in run]
                assert isinstance(told[-1], EndMarker)
                await make("after").run("?")

        asyncio.run(main())
        server.graph("book").assert_shape("before > draft > judge > draft > judge > after")


def test_two_runs_at_once() -> None:
    with served(anyone()) as server:

        async def main() -> None:
            graph, make = of_classes(), agents(server)
            await asyncio.gather(*(graph.run(state=make, inputs=Draft()) for _ in range(2)))

        asyncio.run(main())
        assert [graph.shape() for graph in server.graphs()] == ["draft > judge > draft > judge"] * 2


def test_a_step_that_fails() -> None:
    with served(anyone()) as server:
        build = Builder(server)

        def fail(_: object) -> None:
            raise KeyError("lost")

        a, b = build.step("a"), build.step("b", fail)
        build.chain(build.start, a, b, build.end)
        with pytest.raises(KeyError, match="lost"):
            build.run()
        graph = server.graph("report")
        graph.assert_shape("a > b")
        assert graph.outcome == "error"


def test_a_graph_is_what_it_was() -> None:
    with served() as server:
        build = Builder(server)
        a = build.step("a")
        build.chain(build.start, a, build.end)
        graph = build.graph.build()
        assert hinted(graph).render() == graph.render()
        once = hinted(graph)
        assert hinted(once) is once
