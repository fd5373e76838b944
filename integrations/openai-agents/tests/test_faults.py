"""Nothing about hints can be felt in the application."""

import ast
import asyncio
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    FunctionTool,
    Runner,
    add_trace_processor,
    function_tool,
    set_trace_processors,
    trace,
)
from agents.models.openai_provider import shared_http_client
from agents.tracing import Span, Trace, TracingProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llmd_agents.client
from llmd_agents.client import end_threads, is_supported
from llmd_agents.client.telemetry import use_tracer_provider
from llmd_agents.testing import Reply, ToolCall, recording_server
from llmd_agents_openai_agents import ProgramProcessor, install, open_parts, processor, supported

from .told import asks, edges, ran, says, within

PACKAGE = Path(processor.__file__).parent


class Seen(TracingProcessor):
    """What another processor is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_trace_start(self, trace: Trace) -> None:
        self.told.append("trace")

    def on_trace_end(self, trace: Trace) -> None:
        self.told.append("end of trace")

    def on_span_start(self, span: Span[Any]) -> None:
        self.told.append(span.span_data.type)

    def on_span_end(self, span: Span[Any]) -> None:
        self.told.append(f"end of {span.span_data.type}")

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


@function_tool
async def look_up() -> str:
    return "found"


def chain() -> Agent[Any]:
    return Agent("first", tools=[look_up], handoffs=[Agent[None]("last")])


# As `LINES`, for calls that do not say whose they are.
UNHINTED = (
    Reply(calls=[ToolCall("look_up", {})]),
    Reply(calls=[ToolCall("transfer_to_last", {})]),
    "last is done",
)
LINES = asks("first", "look_up"), asks("first", "transfer_to_last"), says("last")


def test_beside_another_processor() -> None:
    seen = Seen()
    set_trace_processors([seen])
    with recording_server("done") as server:
        ran(server, Agent[None]("agent"))
    alone, seen.told = seen.told, []
    install()
    with recording_server(says("agent")) as server:
        ran(server, Agent[None]("agent"))
    assert seen.told == alone != []


@pytest.mark.parametrize("times", [1, 2])
def test_twice_is_as_once(times: int) -> None:
    set_trace_processors([])
    for _ in range(times):
        install()
    add_trace_processor(ProgramProcessor())
    with recording_server(*LINES) as server:
        ran(server, chain())
        graph = server.graph()
    assert edges(graph) == {"first1 > first2", "first2 > last1"}
    graph.assert_shape("first > first > last")
    graph.assert_tools({"look_up": 1, "transfer_to_last": 1})


def test_the_clients_of_the_sdk_itself_send_hints() -> None:
    code = """
import os, sys
from agents import Agent, Runner, set_default_openai_api, set_trace_processors
from llmd_agents_openai_agents import install
set_trace_processors([])
install()
set_default_openai_api("chat_completions")
print(Runner.run_sync(Agent("agent"), "begin").final_output)
"""
    with recording_server(says("agent")) as server:
        environment = {
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "none",
            "PYTHONPATH": str(PACKAGE.parent),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "agent is done\n", "")
        assert server.graph().shape() == "agent"


HOOKS = ["begin_scope", "tool_call", "open_parts", "get_current_trace", "Part"]


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("streamed", [False, True])
def test_faults_in_what_the_hooks_call(
    name: str, streamed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getattr__(self, _: str) -> Any:
            raise RuntimeError("injected")

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("injected")

        def __contains__(self, _: object) -> bool:
            raise RuntimeError("injected")

    monkeypatch.setattr(processor, name, Broken())
    caplog.set_level(logging.DEBUG, "llmd_agents")
    with recording_server(*UNHINTED) as server:
        assert ran(server, chain(), streamed=streamed) == "last is done"
    if name != "get_current_trace":
        assert "is not told: RuntimeError" in caplog.text
    # A fault may quote what it has met with.
    assert "injected" not in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("method", ["enter", "end", "open", "leave"])
def test_faults_in_scopes(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected")

    monkeypatch.setattr(llmd_agents.client.Scope, method, broken)
    caplog.set_level(logging.DEBUG, "llmd_agents")
    with recording_server(*UNHINTED) as server:
        assert ran(server, chain()) == "last is done"
    assert "is not told: RuntimeError" in caplog.text
    assert "injected" not in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_version_that_was_not_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(package: str, versions: str, *, adapter: str) -> bool:
        assert package == "openai-agents"
        return is_supported(package, ">=99", adapter=adapter)

    monkeypatch.setattr(supported, "is_supported", other)
    is_supported.cache_clear()
    set_trace_processors([])
    with pytest.warns(UserWarning, match=r"llmd-agents-openai-agents .* openai-agents >=99, and 0\.24"):
        install()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        install()
        add_trace_processor(ProgramProcessor())
    with recording_server(*UNHINTED) as server:
        ran(server, chain())
    assert {hints.step.agent for hints in server.hints} == {None}
    is_supported.cache_clear()


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


def test_only_names_and_numbers_are_told(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "CANARY-9f3b"
    caplog.set_level(logging.DEBUG, "llmd_agents")

    @function_tool
    async def keep(word: str) -> str:
        return f"{secret} result of {word}"

    async def main() -> Any:
        with trace("safe", group_id=f"{secret}-group", metadata={"note": secret}):
            return await Runner.run(agent, f"{secret} question", max_turns=3)

    agent = Agent[None]("agent", instructions=f"{secret} instructions", tools=[keep])
    asked = Reply(f"{secret} says", calls=[ToolCall("keep", {"word": secret})])
    with recording_server(asked, f"{secret} answer") as server:
        within(server, main)
        headers = json.dumps([dict(call.headers) for call in server.calls])
        events = [request.body for request in server.requests if request.path.endswith("/events")]
    assert "safe" in headers
    assert secret not in headers
    assert secret.encode() not in b"".join(events)
    end_threads()
    spans = [span.to_json() for span in exported.get_finished_spans()]
    assert len(spans) > 3
    assert not [text for text in (caplog.text, *spans) if secret in text]


def test_what_never_ends_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_parts, "PARTS_MAX", 8)
    parts = open_parts.OpenParts()
    from llmd_agents.client import begin_scope
    from llmd_agents_openai_agents.part import Part

    opened = [Part(begin_scope("endless")) for _ in range(20)]
    for number, part in enumerate(opened):
        parts.put(str(number), part)
    assert len(parts) == 8
    assert [part.scope.ended for part in opened] == [True] * 12 + [False] * 8
    for number in range(12, 20):
        parts.pop(str(number)).end()
    assert len(parts) == 0


def test_spans_of_an_unknown_trace_give_no_hints() -> None:
    async def main() -> None:
        set_trace_processors([])
        with trace("begun before"):
            hooks = Joins()
            await Runner.run(Agent[None]("agent", hooks=hooks), "begin")

    class Joins(AgentHooks[Any]):
        async def on_start(self, *_: Any) -> None:
            set_trace_processors([ProgramProcessor()])

    with recording_server("done") as server:
        within(server, main)
    assert [hints.step.agent for hints in server.hints] == [None]


def test_imports_nothing_below_the_client() -> None:
    allowed = {"llmd_agents", "llmd_agents.client"}
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llmd_agents":
                assert node.module in allowed
                assert {alias.name for alias in node.names} <= {*llmd_agents.client.__all__}
            if isinstance(node, ast.Import):
                assert not [alias for alias in node.names if alias.name.startswith("llmd_agents")]


def test_the_shared_client_is_attached_once() -> None:
    install()
    before = [len(hooks) for hooks in shared_http_client().event_hooks.values()]
    install()
    assert [len(hooks) for hooks in shared_http_client().event_hooks.values()] == before
    asyncio.run(shared_http_client().aclose())
    assert isinstance(look_up, FunctionTool)
