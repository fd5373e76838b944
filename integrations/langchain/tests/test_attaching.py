"""However it is attached, and with whatever goes wrong: each step counts once, and no chain notices."""

import ast
import asyncio
import contextvars
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llmd_agents.client
import llmd_agents_langchain
from llmd_agents import program
from llmd_agents import tool as marked
from llmd_agents.client import end_threads
from llmd_agents.client.telemetry import use_tracer_provider
from llmd_agents.testing import RecordingServer, Reply, ToolCall, recording_server
from llmd_agents_langchain import LlmdAgentsHandler, LlmdAgentsMiddleware, handler, install, runs
from tests.recorded import by_text, model_of, recorded, say, watched

PACKAGE = Path(llmd_agents_langchain.__file__).parent


@pytest.mark.usefixtures("installed")
def test_installed_it_is_everywhere(server: RecordingServer, model: ChatOpenAI) -> None:
    chain = say(model, "one") | say(model, "two")
    thread = threading.Thread(target=chain.invoke, args=("",))
    thread.start()
    thread.join()
    recorded(server).assert_shape("one > two")


@pytest.mark.usefixtures("installed")
def test_attached_in_all_ways(server: RecordingServer, model: ChatOpenAI) -> None:
    install()
    chain = say(model, "one") | {"a": say(model, "a"), "b": say(model, "b")} | say(model, "two")
    chain.invoke("", {"callbacks": [LlmdAgentsHandler(), LlmdAgentsHandler()]})
    recorded(server).assert_shape("one > fork(a | b) > two")
    assert len(server.calls) == 4


@tool
def search(query: str) -> str:
    """Finds something."""
    return _searched(query)


@marked(name="search")
def _searched(query: str) -> str:
    return f"found {query}"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("handlers", [0, 1])
def test_middleware(asynchronous: bool, handlers: int) -> None:
    asks = Reply(calls=[ToolCall("search", {"query": "x"}), ToolCall("search", {"query": "y"})])
    with recording_server(asks, "done") as server, model_of(server.base_url) as model:
        agent: Any = create_agent(model, [search], middleware=[LlmdAgentsMiddleware("scout")])
        given = {"messages": [("user", "find it")]}
        config: Any = watched() if handlers else {}
        with program("outer"):
            if asynchronous:
                asyncio.run(agent.ainvoke(given, config))
            else:
                agent.invoke(given, config)
        graph = server.graph("outer")
        graph.assert_shape("scout > scout")
        graph.assert_tools(["search", "search"])
        asked = {called["id"] for called in server.calls[1].json["messages"][-3]["tool_calls"]}
        assert {called.id for called in graph.tools} == asked


def test_what_is_declared_wins(server: RecordingServer, model: ChatOpenAI) -> None:
    with program("mine") as run:

        def work(_: Any) -> str:
            with run.label(agent="critic"), run.fork(2, name="mine") as fork:
                fork.map(lambda text: model.invoke(text).text, ["x", "y"])
            with program("inner"):
                say(model, "apart").invoke("")
            return ""

        chain = say(model, "plan") | work | {"a": say(model, "a"), "b": say(model, "b")} | say(model, "end")
        chain.invoke("", watched())
    assert [graph.name for graph in server.graphs()] == ["mine", "inner"]
    mine = by_text(server, server.graph("mine"))
    mine.assert_shape("plan > fork(x | y) > fork(a | b) > end")
    assert mine.assert_forked(name="mine").width == 2


def test_a_chain_that_fails(server: RecordingServer, model: ChatOpenAI) -> None:
    with pytest.raises(Exception, match="not that"):
        (say(model, "one") | say(model, "!two")).invoke("", watched())
    assert server.graph().outcome == "error"
    assert not len(runs.RUNS)


def test_a_chain_that_is_cancelled(server: RecordingServer, model: ChatOpenAI) -> None:
    begun = asyncio.Event()

    async def wait(_: Any) -> str:
        begun.set()
        await asyncio.sleep(3600)
        return ""

    async def main() -> None:
        chain: Any = say(model, "one") | wait
        running = asyncio.create_task(chain.ainvoke("", watched()))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert server.graph().outcome == "cancelled"
    assert not len(runs.RUNS)


HOOKS = ["chain_began", "model_began", "tool_began", "ended", "model_ended", "failed"]


@pytest.mark.parametrize("hook", HOOKS)
def test_faults_are_not_felt(
    model: ChatOpenAI,
    hook: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def broken(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        raise RuntimeError("canary")

    monkeypatch.setattr(handler, "RUNS", runs.Runs())
    monkeypatch.setattr(runs.Runs, hook, broken)

    def use() -> None:
        chain = say(model, "one") | search | say(model)
        assert chain.invoke("", watched()) == "found one"
        with pytest.raises(Exception, match="not that"):
            say(model, "!two").invoke("", watched())

    with caplog.at_level(logging.DEBUG):
        contextvars.copy_context().run(use)
    assert calls
    assert "gives no hints: RuntimeError" in caplog.text
    assert "canary" not in caplog.text


def test_untested_versions(
    server: RecordingServer, model: ChatOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"langchain-core": ("langchain_core", "<1")}
    monkeypatch.setattr(llmd_agents_langchain.tested, "VERSIONS", versions)
    with pytest.warns(UserWarning, match="langchain-core <1"):
        unused = LlmdAgentsHandler()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has warned
        middleware = LlmdAgentsMiddleware("scout")
    agent: Any = create_agent(model, [search], name="scout", middleware=[middleware])
    agent.invoke({"messages": [("user", "hello")]}, {"callbacks": [unused]})
    (say(model, "one") | say(model, "two")).invoke("", {"callbacks": [unused]})
    assert {call.hints.step.agent for call in server.calls if call.hints} == {None}
    assert "scout" not in {graph.name for graph in server.graphs()}
    before = len(server.hints)
    with model_of(server.base_url) as unhinted:
        unhinted.invoke("three")
    assert len(server.hints) == before


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """The spans that are made."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_tracer_provider(provider)
    yield exporter
    use_tracer_provider(None)
    provider.shutdown()


def test_no_contents_in_hints_logs_or_spans(
    model: ChatOpenAI, exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "llmd_agents")
    canary = "canary-5f3a"
    asks = Reply(calls=[ToolCall("search", {"query": canary})])
    with recording_server(asks, canary) as server, model_of(server.base_url) as model:
        agent: Any = create_agent(model, [search], name="scout", system_prompt=canary)
        agent.invoke({"messages": [("user", canary)]}, watched(configurable={"thread_id": canary}))
        assert len(server.calls) == 2
        end_threads()
        server.settle()
        spans = [span.to_json() for span in exported.get_finished_spans()]
        assert len(spans) > 3
        told = [
            caplog.text,
            *spans,
            *(str(request.headers) for request in server.requests),
            *(str(request.body) for request in server.requests if request not in server.calls),
            *map(str, server.events),
        ]
        assert not [text for text in told if canary in text]


def test_runs_are_bounded(
    server: RecordingServer, model: ChatOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RUNS_MAX", 2)

    def deeper(depth: int) -> str:
        if depth:
            return str((deeper_chain | say(model)).invoke(depth - 1, None))
        return model.invoke("deep").text

    deeper_chain: Any = RunnableLambda(deeper)
    assert deeper_chain.invoke(3, watched()) == "deep"
    assert len(runs.RUNS) <= 2


def test_a_step_is_noted(server: RecordingServer, model: ChatOpenAI) -> None:
    answers = [
        (say(model, "one") | model).invoke("", watched()),
        asyncio.run((say(model, "one") | model).ainvoke("", watched())),
    ]
    for answer, graph in zip(answers, server.graphs(), strict=True):
        note = answer.response_metadata["llmd_agents"]
        assert note == {"program": graph.id, "step": graph.steps[1].id}


def test_it_imports_the_client_only() -> None:
    allowed = {"llmd_agents": {"*"}, "llmd_agents.client": set(llmd_agents.client.__all__)}
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not [one.name for one in node.names if one.name.startswith("llmd_agents.")], path
            elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "llmd_agents":
                assert {one.name for one in node.names} <= allowed[str(node.module)], path
