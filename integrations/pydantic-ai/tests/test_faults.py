"""What goes wrong in the application, and in the adapter, where nothing may be felt of it."""

import asyncio
import warnings
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, UsageLimitExceeded, UsageLimits
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.tools import DeferredToolRequests, DeferredToolResults
from pydantic_graph import GraphBuilder, StepContext

import llmd_agents_pydantic_ai.graph as graph_module
import llmd_agents_pydantic_ai.program_hints as hints_module
from llmd_agents.client import end_threads, is_supported
from llmd_agents.testing import Line, Reply, ToolCall
from llmd_agents_pydantic_ai import ProgramHints, hinted
from llmd_agents_pydantic_ai.graph_walk import GraphWalk

from .app import agents, anyone, asks, served, tools


def test_a_tool_that_asks_to_be_called_again() -> None:
    with served(
        asks("clerk", "look_up", key="a"), asks("clerk", "look_up", key="b"), Line("done", agent="clerk")
    ) as server:
        clerk = agents(server)("clerk")

        @clerk.tool_plain
        def look_up(key: str) -> str:
            if key == "a":
                raise ModelRetry("no such key")
            return "found"

        asyncio.run(clerk.run("go"))
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk > clerk")
        assert tools(graph) == [("look_up", "error"), ("look_up", "ok")]


def test_arguments_that_are_not_valid() -> None:
    with served(
        asks("clerk", "add", a="x"), asks("clerk", "add", a=1), Line("done", agent="clerk")
    ) as server:
        clerk = agents(server)("clerk")

        @clerk.tool_plain
        def add(a: int) -> int:
            return a + 1

        asyncio.run(clerk.run("go"))
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk > clerk")
        # Of the first the tool saw nothing; the model was told what was wrong with it.
        assert tools(graph) == [("add", "ok"), ("add", "ok")]


def test_a_tool_that_fails_ends_the_run() -> None:
    with served(asks("lead", "history"), Line("1066", agent="historian")) as server:
        make = agents(server)
        lead, historian = make("lead"), make("historian")

        @lead.tool_plain
        async def history() -> str:
            await historian.run("?")
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            asyncio.run(lead.run("go"))
        graph = server.graph("lead")
        graph.assert_shape("lead > historian")
        assert tools(graph) == [("history", "error")]
        assert graph.outcome == "error"


def test_a_limit_that_is_reached() -> None:
    with served(asks("clerk", "work"), asks("clerk", "work")) as server:
        clerk = agents(server)("clerk")

        @clerk.tool_plain
        def work() -> str:
            return "more"

        with pytest.raises(UsageLimitExceeded):
            asyncio.run(clerk.run("go", usage_limits=UsageLimits(request_limit=2)))
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk")
        assert graph.outcome == "error"


def test_a_run_that_is_cancelled() -> None:
    with served(asks("lead", "history"), Line("1066", agent="historian")) as server:
        make = agents(server)
        lead, historian = make("lead"), make("historian")

        async def main() -> None:
            waits = asyncio.Event()

            @lead.tool_plain
            async def history() -> str:
                await historian.run("?")
                waits.set()
                await asyncio.sleep(60)
                return "never"

            run = asyncio.create_task(lead.run("go"))
            await waits.wait()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        asyncio.run(main())
        graph = server.graph("lead")
        graph.assert_shape("lead > historian")
        assert tools(graph) == [("history", "cancelled")]
        assert graph.outcome == "cancelled"


def test_a_run_that_nobody_iterates_to_its_end() -> None:
    with served(anyone()) as server:
        clerk = agents(server)("clerk")

        async def main() -> None:
            async with clerk.iter("go") as run:
                async for node in run:
                    if Agent.is_call_tools_node(node):
                        break
            # What comes later is none of it.
            await clerk.run("once more")

        asyncio.run(main())
        assert [(graph.shape(), graph.outcome) for graph in server.graphs()] == [
            ("clerk", "cancelled"),
            ("clerk", "ok"),
        ]


def test_a_stream_that_is_left() -> None:
    with served(Line(Reply(["a", "b", "c"])), Line("fine", agent="clerk")) as server:
        clerk = agents(server)("clerk")

        async def main() -> None:
            async with clerk.run_stream("go") as result:
                async for _ in result.stream_text(debounce_by=None):
                    break
            await clerk.run("once more")

        asyncio.run(main())
        assert [len(graph.steps) for graph in server.graphs()] == [1, 1]


@pytest.mark.parametrize("error", [CallDeferred, ApprovalRequired])
def test_a_call_that_is_put_off(error: Any) -> None:
    with served(asks("clerk", "pay"), Line("done", agent="clerk")) as server:
        clerk = agents(server)("clerk", output_type=[str, DeferredToolRequests])

        @clerk.tool_plain
        def pay() -> str:
            raise error

        async def main() -> None:
            first = await clerk.run("go", conversation_id="sale 7")
            assert isinstance(first.output, DeferredToolRequests)
            requests = first.output
            calls = {call.tool_call_id: "paid" for call in requests.calls}
            denied = {call.tool_call_id: False for call in requests.approvals}
            results = DeferredToolResults(calls=dict(calls), approvals=dict(denied))
            await clerk.run(message_history=first.all_messages(), deferred_tool_results=results)

        asyncio.run(main())
        end_threads()
        graph = server.graph("clerk")
        graph.assert_shape("clerk > clerk")
        assert tools(graph) == [("pay", "cancelled")]


# --- the adapter's own


def run_all(server: Any) -> None:
    """Runs an agent with a tool, an output tool and a delegate, and a graph of such."""
    make = agents(server)
    lead, historian = make("lead"), make("historian")

    @lead.tool_plain
    async def history() -> str:
        return str((await historian.run("?")).output)

    builder = GraphBuilder(name="g", output_type=str)

    @builder.step
    async def only(ctx: StepContext) -> str:
        return str((await lead.run("go")).output)

    edge = builder.edge_from
    builder.add(edge(builder.start_node).to(only), edge(only).to(builder.end_node))
    assert asyncio.run(hinted(builder.build()).run()) == "done"


LINES = (
    Line(Reply(calls=[ToolCall("history", {})]), says="go"),
    Line("1066", says="?"),
    Line("done", says="1066"),
)


def raising(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a fault of the adapter")


class Raises:
    """A block that cannot be left, or entered."""

    def __init__(self, when: str) -> None:
        self._when = when

    def __enter__(self) -> None:
        if self._when == "enter":
            raising()

    def __exit__(self, *_: object) -> None:
        raising()


HOOKS = [
    (hints_module, "begin_scope"),
    (hints_module, "current_scope"),
    (hints_module, "tool_call"),
    (hints_module, "instrument_model"),
    (graph_module, "begin_scope"),
    (graph_module, "GraphWalk"),
]


@pytest.mark.parametrize(("module", "name"), HOOKS, ids=[f"{one.__name__}.{name}" for one, name in HOOKS])
@pytest.mark.parametrize("fault", ["call", "enter", "leave"])
def test_faults_are_not_felt(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, fault: str) -> None:
    replacement = raising if fault == "call" else lambda *_, **__: Raises(fault)
    monkeypatch.setattr(module, name, replacement)
    with served(*LINES) as server:
        run_all(server)
        assert len(server.calls) == 3


@pytest.mark.parametrize("method", ["told", "begin", "reduced"])
def test_faults_of_a_walk_are_not_felt(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(GraphWalk, method, raising)
    with served(*LINES) as server:
        run_all(server)
        assert len(server.calls) == 3


def test_without_faults() -> None:
    with served(*LINES) as server:
        run_all(server)
        server.graph("g").assert_shape("lead > historian > lead")


def test_another_version_gives_no_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints_module, "VERSIONS", ">=9")
    monkeypatch.setattr(graph_module, "VERSIONS", ">=9")
    is_supported.cache_clear()
    with served(*LINES) as server:
        with pytest.warns(UserWarning, match=r"tested with pydantic-(ai-slim|graph) >=9, and 2\.") as warned:
            run_all(server)
        assert [call.hints for call in server.calls] == [None, None, None]
        # Once for each package, however many agents there are.
        assert len(warned) == 2
    monkeypatch.undo()
    is_supported.cache_clear()


def test_the_warning_names_the_applications_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints_module, "VERSIONS", ">=9.1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ProgramHints()
    assert [str(one.filename) for one in caught] == [__file__]
