"""What goes wrong in the adapter, or with what it finds, is not felt; contents stay where they are."""

import ast
import asyncio
import gc
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai import OpenAI
from llama_index_instrumentation import get_dispatcher

import llmd_agents_llama_index
from llmd_agents.testing import Failure, Reply, ToolCall
from llmd_agents_llama_index import (
    conversation,
    install,
    origins,
    part,
    place,
    routing,
    spans,
    tested,
    tool_round,
    uninstall,
    workflow_run,
)
from llmd_agents_llama_index import wrapped as wrapped_methods
from tests.test_agents import search
from tests.test_engines import chat_engine
from tests.test_workflows import MAP_REDUCE, Asking, Checked, MapReduce, Work
from tests.told import edges, named, run, told

CANARY = "canary-7f3a"


def broken(*_: object, **__: object) -> Any:
    raise RuntimeError(CANARY)


HOOKS = [
    (spans, "begin_part"),
    (spans, "WorkflowRun"),
    (spans.OpenSpans, "get"),
    (spans.OpenSpans, "put"),
    (spans.OpenSpans, "pop"),
    (workflow_run, "begin_scope"),
    (workflow_run.WorkflowRun, "begin_step"),
    (workflow_run, "routing_of"),
    (routing.Routing, "steps_for"),
    (workflow_run.WorkflowRun, "end"),
    (place.Place, "send"),
    (place.Place, "settle"),
    (place.Place, "collected"),
    (place.Place, "end"),
    (place.Place, "take_call"),
    (tool_round.ToolRound, "open"),
    (tool_round.ToolRound, "end"),
    (part, "begin_scope"),
    (part, "tool_call"),
    (part.Part, "end"),
    (origins.Origins, "get"),
    (origins.Origins, "put"),
    (conversation, "_conversations"),
]


@pytest.mark.parametrize(("owner", "name"), HOOKS, ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_in_a_hook(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(llm: OpenAI) -> list[object]:
        agent = FunctionAgent(name="scout", tools=[search], llm=llm, streaming=False)
        context: Context[Any] = Context(agent)
        return [
            await MapReduce(llm).run(),
            str(await agent.run(user_msg=CANARY, ctx=context)),
            str(await chat_engine(llm).achat(CANARY)),
        ]

    monkeypatch.setattr(owner, name, broken)
    caplog.set_level("DEBUG", "llmd_agents")
    lines = [*["fine"] * 8, Reply(calls=[ToolCall("search", {"query": CANARY})] * 2), "done", "hello"]
    with told(*lines) as server:
        assert run(server, main) == ["reduced", "done", "hello"]
    assert len(server.calls) == 11
    assert "gives no hints: " in caplog.text
    assert CANARY not in caplog.text


def test_contents_stay_where_they_are() -> None:
    class Secretive(Asking):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Work | None:
            await self.ask(CANARY)
            for number in range(2):
                ctx.send_event(Work(number=number, secret=CANARY))
            return None

        @step
        async def second(self, ctx: Context, ev: Work) -> StopEvent | None:
            await self.ask(CANARY)
            if ctx.collect_events(ev, [Work, Work]) is None:
                return None
            return StopEvent(result=CANARY)

    async def main(llm: OpenAI) -> None:
        await Secretive(llm).run(secret=CANARY)
        agent = FunctionAgent(name="scout", tools=[search], llm=llm, system_prompt=CANARY, streaming=False)
        await agent.run(user_msg=CANARY)
        with pytest.raises(Exception, match="500"):
            await agent.run(user_msg=CANARY)

    lines = (
        *[CANARY] * 3,
        Reply(calls=[ToolCall("search", {"query": CANARY})]),
        CANARY,
        Failure(500, CANARY),
    )
    with told(*lines) as server:
        run(server, main)
        server.graphs()
    assert len(server.calls) == 6
    headers = [call.headers["x-llmd-hints"] for call in server.calls]
    events = [request for request in server.requests if request.path.endswith("/events")]
    assert events
    for text in (*headers, *(str(event.json) for event in events)):
        assert CANARY not in text


def test_events_look_as_before() -> None:
    seen: list[Any] = []

    class Looks(Asking):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Work | None:
            ctx.send_event(Work(number=1))
            ctx.send_event(Work(number=2, more="x"))
            return None

        @step
        async def second(self, ctx: Context, ev: Work) -> StopEvent | None:
            found = ctx.collect_events(ev, [Work, Work])
            if found is None:
                return None
            seen.extend(event.model_dump() for event in found)
            seen.extend(dict(event.items()) for event in found)
            return StopEvent()

    async def main(llm: OpenAI) -> None:
        await Looks(llm).run()

    with told() as server:
        run(server, main)
    assert seen == [{"number": 1}, {"number": 2, "_data": {"more": "x"}}, {}, {"more": "x"}]


def test_a_version_that_it_is_not_tested_with(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(llm: OpenAI) -> object:
        return await MapReduce(llm).run()

    uninstall()
    monkeypatch.setitem(tested.VERSIONS, "llama-index-core", ">=99")
    with pytest.warns(UserWarning, match="llama-index-core >=99"):
        install()
    with told() as server:
        assert run(server, main) == "reduced"
        assert server.calls
        assert not server.hints
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        install()  # it has said so


def test_installed_twice_is_installed_once() -> None:
    async def main(llm: OpenAI) -> object:
        return await MapReduce(llm).run()

    install()
    with told() as server:
        run(server, main)
        graph = named(server)
    assert edges(graph) == MAP_REDUCE
    assert len(server.calls) == 8


def test_uninstalled_it_leaves_all_as_it_was() -> None:
    uninstall()
    methods = Context.send_event, Context.collect_events, Workflow.run
    handlers = list(get_dispatcher().span_handlers), list(get_dispatcher().event_handlers)
    install()
    assert Context.send_event is not methods[0]
    uninstall()
    uninstall()
    assert methods == (Context.send_event, Context.collect_events, Workflow.run)
    assert handlers == (get_dispatcher().span_handlers, get_dispatcher().event_handlers)
    assert not wrapped_methods._wrapped


def test_methods_that_others_have_wrapped_since_stay() -> None:
    def other(*_: Any) -> None: ...

    uninstall()
    before = Context.send_event
    install()
    try:
        Context.send_event = other  # type: ignore[assignment,method-assign]
        uninstall()
        assert Context.send_event is other
    finally:
        Context.send_event = before  # type: ignore[method-assign]


def test_nothing_is_kept_of_what_is_over() -> None:
    class Dropping(Asking):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Checked:
            await self.ask("first")
            ctx.send_event(Work(number=0))
            return Checked(number=0)

        @step
        async def second(self, ev: Checked) -> StopEvent:
            return StopEvent(result="over")

    async def main(llm: OpenAI) -> None:
        await asyncio.gather(*[Dropping(llm).run() for _ in range(20)])

    gc.collect()
    known = len(origins.origins), len(spans.open_spans)
    with told() as server:
        run(server, main)
        server.graphs()
    gc.collect()
    assert (len(origins.origins), len(spans.open_spans)) == known


def test_what_is_known_of_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "ORIGINS_MAX", 3)
    kept = origins.Origins()
    events = [Work(number=number) for number in range(5)]
    made = [origins.Origin() for _ in events]
    for event, origin in zip(events, made, strict=True):
        kept.put(event, origin)
    assert [kept.get(event) for event in events] == [None, None, *made[2:]]
    del event
    events.clear()
    gc.collect()
    assert len(kept) == 0


def test_spans_whose_end_is_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[int, bool]] = []

    class Noted:
        cancelled = False

        def __init__(self, number: int) -> None:
            self.number = number

        def end(self, result: object, error: object) -> None:
            ended.append((self.number, self.cancelled))

    monkeypatch.setattr(spans, "SPANS_MAX", 2)
    kept = spans.OpenSpans()
    for number in range(4):
        kept.put(str(number), Noted(number))  # type: ignore[arg-type]
    assert ended == [(0, True), (1, True)]
    assert len(kept) == 2


def test_it_imports_the_client_and_llama_index_only() -> None:
    allowed = {"llama_index", "llama_index_instrumentation", "workflows", "llmd_agents", "openai"}
    for path in Path(llmd_agents_llama_index.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module or ""]
            else:
                continue
            for name in imported:
                top = name.split(".")[0]
                assert top in allowed | sys.stdlib_module_names, (path, name)
                assert top != "llmd_agents" or name in ("llmd_agents", "llmd_agents.client"), (path, name)


def test_the_recording_server_takes_all_hints() -> None:
    async def main(llm: OpenAI) -> None:
        await MapReduce(llm).run()

    with told() as server:
        run(server, main)
        server.graphs()
    assert server.rejected == []
