"""The spans of programs, as a provider of OpenTelemetry's SDK gets to see them."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider

from llmd_agents.client import Continuation, program, tool_call
from llmd_agents.client.telemetry import SpansWhenTraced, gate, use_tracer_provider
from llmd_agents.client.telemetry.background import Background, background
from llmd_agents.client.telemetry.spans import AGENTS_MAX, SPAN_LINKS_MAX, ProgramSpans
from llmd_agents.client.telemetry.tips import FORKS_MAX
from llmd_agents.hints import Ack, LoopPosition, Rejection
from tests.client.telemetry.stories import STARTED_AT, Teller


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_tracer_provider(provider)
    yield exporter
    use_tracer_provider(None)
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    spans = exporter.get_finished_spans()
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def tree(spans: Sequence[ReadableSpan]) -> set[tuple[str, str | None]]:
    names = {span.context.span_id: span.name for span in spans if span.context}
    return {(span.name, names[span.parent.span_id] if span.parent else None) for span in spans}


def linked(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> list[Any]:
    ids = {one.context.span_id: one.attributes["llmd.step.id"] for one in spans if is_step(one)}  # type: ignore[index]
    return [ids[link.context.span_id] for link in span.links]


def is_step(span: ReadableSpan) -> bool:
    return span.attributes is not None and "llmd.step.id" in span.attributes


def seconds(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return (
        round(span.start_time / 1e9 - STARTED_AT, 3),
        round(span.end_time / 1e9 - STARTED_AT, 3),
    )


def test_a_program_that_goes_on_is_taken_up_at_once_so_that_all_is_within_its_span(
    exported: InMemorySpanExporter,
) -> None:
    tracer = trace.get_tracer("mine", tracer_provider=gate._given)
    with program("p") as run, run.hand_over() as handed:
        meta = handed.meta
    exported.clear()
    with Continuation(meta), tracer.start_as_current_span("mine"):
        pass
    assert ("mine", "branch h1.0") in tree(exported.get_finished_spans())


def test_a_fork_is_children_and_its_join_is_links(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    with told.program(9.0):
        told.step("s1", 0.5, 1.0, model="plan")
        fork = told.fork("f1", 2, 1.0, parents=("s1",), name="grade")
        for index in (0, 1):
            with told.branch(fork, index, 1.0, 4.0 + index) as place:
                told.step(f"s{2 + 2 * index}", 1.1, 2.0, model=f"a{index}", parents=("s1",), **place)
                told.step(
                    f"s{3 + 2 * index}", 2.0, 3.0, model=f"b{index}", parents=(f"s{2 + 2 * index}",), **place
                )
        told.step("s6", 6.0, 8.0, model="sum", parents=("f1",))
    spans = by_name(exported)
    root = "invoke_workflow essays"
    assert tree(list(spans.values())) == {
        (root, None),
        ("chat plan", root),
        ("branch f1.0", root),
        ("chat a0", "branch f1.0"),
        ("chat b0", "branch f1.0"),
        ("branch f1.1", root),
        ("chat a1", "branch f1.1"),
        ("chat b1", "branch f1.1"),
        ("chat sum", root),
    }
    links = {name: linked(span, list(spans.values())) for name, span in spans.items() if span.links}
    assert links == {"chat sum": ["s3", "s5"]}
    assert {name: seconds(span) for name, span in spans.items()} == {
        root: (0.0, 9.0),
        "chat plan": (0.5, 1.0),
        "branch f1.0": (1.0, 4.0),
        "chat a0": (1.1, 2.0),
        "chat b0": (2.0, 3.0),
        "branch f1.1": (1.0, 5.0),
        "chat a1": (1.1, 2.0),
        "chat b1": (2.0, 3.0),
        "chat sum": (6.0, 8.0),
    }


def test_attributes_of_a_step(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    ack = Ack(accepted=("program", "step"), clipped=(Rejection("segments", "many"),), resync=True)
    with told.program(3.0):
        told.step(
            "s1",
            0.0,
            2.0,
            kind="act",
            parents=(),
            loop=LoopPosition(id="l1", iteration=2, limit=5),
            input_tokens=100,
            cached_tokens=60,
            output_tokens=7,
            ack=ack,
            extends=b"\x01" * 16,
            context=((b"\x02" * 16, 50), (b"\x03" * 16, 60)),
        )
    step = by_name(exported)["chat m"]
    assert step.kind is trace.SpanKind.CLIENT
    assert step.status.is_unset
    assert dict(step.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.workflow.name": "essays",
        "gen_ai.conversation.id": "essays-1:main",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "server.address": "10.0.0.7",
        "server.port": 8000,
        "http.response.status_code": 200,
        "llmd.program.id": "essays-1",
        "llmd.step.id": "s1",
        "llmd.step.kind": "act",
        "llmd.branch": "main",
        "llmd.parents": (),
        "llmd.loop.id": "l1",
        "llmd.loop.iteration": 2,
        "llmd.loop.limit": 5,
        "llmd.prompt.bytes": 400,
        "llmd.prompt.new_bytes": 100,
        "llmd.context.extends": "01" * 16,
        "llmd.context.digests": ("02" * 16, "03" * 16),
        "llmd.context.sizes": (50, 60),
        "llmd.ack.accepted": ("program", "step"),
        "llmd.ack.clipped": ("segments",),
        "llmd.ack.resync": True,
    }


def test_an_agent_spans_its_consecutive_steps_and_their_tools(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    with told.program(20.0):
        told.step("s1", 0.0, 1.0, model="1", agent="planner")
        with told.tool("t1", "search", 1.0, 4.0, expected=2.5, asked_by="s1"):
            told.step("s2", 2.0, 3.0, model="2", agent="reader", parents=("s1",))
        told.step("s3", 5.0, 6.0, model="3", agent="planner", parents=("s2",))
        told.step("s4", 7.0, 8.0, model="4", agent="critic", parents=("s3",))
        told.step("s5", 9.0, 10.0, model="5", parents=("s4",))
    spans = by_name(exported)
    root = "invoke_workflow essays"
    assert tree(list(spans.values())) == {
        (root, None),
        ("invoke_agent planner", root),
        ("chat 1", "invoke_agent planner"),
        ("execute_tool search", "invoke_agent planner"),
        ("invoke_agent reader", "execute_tool search"),
        ("chat 2", "invoke_agent reader"),
        ("chat 3", "invoke_agent planner"),
        ("invoke_agent critic", root),
        ("chat 4", "invoke_agent critic"),
        ("chat 5", root),
    }
    assert {name: seconds(span) for name, span in spans.items() if "agent" in name} == {
        "invoke_agent planner": (0.0, 6.0),
        "invoke_agent reader": (2.0, 3.0),
        "invoke_agent critic": (7.0, 8.0),
    }
    tool = spans["execute_tool search"].attributes or {}
    assert (tool["llmd.tool.expected_seconds"], tool["llmd.tool.asked_by"]) == (2.5, "s1")


def test_steps_that_overlap_end_their_agent_when_the_last_one_does(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    with told.program(9.0):
        first = told.begin("s1", 0.0, agent="a", model="1")
        told.step("s2", 1.0, 2.0, agent="b", model="2")
        told.end(first, 5.0)
    assert seconds(by_name(exported)["invoke_agent a"]) == (0.0, 5.0)


def test_errors_and_what_was_never_answered(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    with told.program(9.0):
        told.step("s1", 0.0, 1.0, model="1", outcome="error", status=503)
        told.step("s2", 0.0, 1.0, model="2", outcome="error", status=None)
        told.step("s3", 0.0, 1.0, model="3", outcome="cancelled", status=None)
        told.begin("s4", 2.0, model="4")
    spans = by_name(exported)
    found = {
        name: (
            spans[f"chat {name}"].status.status_code.name,
            (spans[f"chat {name}"].attributes or {}).get(key),
        )
        for name, key in (
            ("1", "error.type"),
            ("2", "error.type"),
            ("3", "llmd.outcome"),
            ("4", "error.type"),
        )
    }
    assert found == {
        "1": ("ERROR", "503"),
        "2": ("ERROR", "_OTHER"),
        "3": ("UNSET", "cancelled"),
        "4": ("UNSET", None),
    }


def test_the_spans_of_program_branch_and_tool_are_current_within(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    current: list[Any] = []

    def note() -> None:
        current.append(getattr(trace.get_current_span(), "name", None))

    note()
    with told.program(9.0):
        note()
        fork = told.fork("f1", 1, 1.0, parents=())
        with told.branch(fork, 0, 1.0, 2.0):
            note()
            with told.tool("t1", "search", 1.0, 2.0, branch="f1.0"):
                note()
            note()
        note()
    note()
    root = "invoke_workflow essays"
    assert current == [
        None,
        root,
        "branch f1.0",
        "execute_tool search",
        "branch f1.0",
        root,
        None,
    ]


def test_spans_of_the_application_are_respected_on_both_sides(exported: InMemorySpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracer = provider.get_tracer("mine")
    told = Teller(SpansWhenTraced())
    with tracer.start_as_current_span("request"), told.program(9.0), tracer.start_as_current_span("phase"):
        told.step("s1", 0.0, 1.0, model="1")
    assert tree(exported.get_finished_spans()) == {
        ("request", None),
        ("invoke_workflow essays", "request"),
        ("phase", "invoke_workflow essays"),
        ("chat 1", "phase"),
    }
    provider.shutdown()


def test_undeclared_steps_are_spans_where_they_are_made(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced(), "undeclared")
    told.observer.program_started(told.history)
    assert not trace.get_current_span().get_span_context().is_valid
    told.step("s1", 0.0, 1.0)
    background.flush()
    assert tree(exported.get_finished_spans()) == {("chat m", None)}


def test_a_join_over_many_branches_has_a_bounded_number_of_links(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    width = SPAN_LINKS_MAX + 20
    with told.program(9.0):
        fork = told.fork("f1", width, 0.0, parents=())
        for index in range(width):
            with told.branch(fork, index, 0.0, 2.0) as place:
                told.step(f"s{index}", 0.0, 1.0, model=f"m{index}", **place)
        told.step("last", 3.0, 4.0, model="last", parents=("f1",))
    assert len(by_name(exported)["chat last"].links) == SPAN_LINKS_MAX


def test_what_is_remembered_of_a_long_program_is_bounded(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    provider = TracerProvider()
    tracer = provider.get_tracer("mine")
    with told.program(9.0):
        for index in range(FORKS_MAX + 50):
            fork = told.fork(f"f{index}", 1, 0.0, parents=())
            with told.branch(fork, 0, 0.0, 1.0) as place, tracer.start_as_current_span("mine"):
                told.step(f"s{index}", 0.0, 1.0, **place)
            with tracer.start_as_current_span("mine"):
                told.step(f"a{index}", 0.0, 1.0, agent="a", parents=(f"f{index}",))
        spans = told.history.span
        assert isinstance(spans, ProgramSpans)
        assert len(spans._tips.forks) == len(spans._tips._tips) == FORKS_MAX
        assert {branch: len(agents) for branch, agents in spans._agents.items()} == {"main": AGENTS_MAX}
    provider.shutdown()
    assert background.flush()
    found = exported.get_finished_spans()
    assert len(found) == 1 + 4 * (FORKS_MAX + 50)
    assert sum(len(span.links) for span in found) == FORKS_MAX + 50


def test_a_nested_fork_without_a_step_after_it_ends_its_branch(exported: InMemorySpanExporter) -> None:
    told = Teller(SpansWhenTraced())
    with told.program(9.0):
        outer = told.fork("f1", 1, 0.0, parents=())
        with told.branch(outer, 0, 0.0, 5.0) as place:
            told.step("s1", 0.0, 1.0, model="1", **place)
            inner = told.fork("f2", 2, 1.0, parents=("s1",), branch="f1.0")
            for index in range(2):
                with told.branch(inner, index, 1.0, 2.0) as inner_place:
                    told.step(f"s{2 + index}", 1.0, 2.0, model=f"i{index}", parents=("s1",), **inner_place)
        told.step("s4", 6.0, 7.0, model="last", parents=("f1",))
    spans = by_name(exported)
    assert linked(spans["chat last"], list(spans.values())) == ["s2", "s3"]


async def in_a_generator(told: Teller) -> AsyncGenerator[int]:
    with told.program(2.0):
        yield 1
        yield 2


def test_a_program_closed_in_another_context_logs_no_error(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    told = Teller(SpansWhenTraced())

    async def main() -> None:
        generator = in_a_generator(told)
        await asyncio.create_task(generator.asend(None))
        await asyncio.create_task(generator.aclose())
        assert not trace.get_current_span().get_span_context().is_valid

    with caplog.at_level(logging.DEBUG):
        asyncio.run(main())
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []
    assert [span.name for span in exported.get_finished_spans()] == ["invoke_workflow essays"]


class BrokenAtTheStart(SpanProcessor):
    def on_start(self, span: Span, parent_context: Any = None) -> None:
        raise RuntimeError("broken")


class BrokenAtTheEnd(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("broken")


@pytest.mark.parametrize("broken", [BrokenAtTheStart(), BrokenAtTheEnd()])
def test_a_processor_that_raises_is_not_felt(broken: SpanProcessor) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(broken)
    use_tracer_provider(provider)
    try:
        with program("essays") as run:
            with tool_call("search"):
                pass
            with run.fork(1) as fork, fork.branch():
                pass
        assert background.flush()
        assert not trace.get_current_span().get_span_context().is_valid
    finally:
        use_tracer_provider(None)


class Hanging(SpanExporter):
    def __init__(self) -> None:
        self.released = threading.Event()
        self.exported: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.released.wait(60)
        self.exported += [span.name for span in spans]
        return SpanExportResult.SUCCESS


def test_programs_go_on_while_an_exporter_hangs() -> None:
    exporter = Hanging()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_tracer_provider(provider)
    try:
        for name in ("first", "second"):
            with program(name), tool_call("search"):
                pass
        assert exporter.exported == []
        exporter.released.set()
        while not background.flush(1):
            pass
        assert exporter.exported == [
            "execute_tool search",
            "invoke_workflow first",
            "execute_tool search",
            "invoke_workflow second",
        ]
    finally:
        exporter.released.set()
        use_tracer_provider(None)


def test_an_exporter_that_hangs_holds_nobody_up() -> None:
    released = threading.Event()
    work = Background()
    work.put(lambda: assert_true(released.wait(60)))
    assert not work.flush(0.01)
    assert not work.flush(60)  # nobody waits for it twice
    for _ in range(20_000):
        work.put(lambda: None)
    assert work.dropped > 10_000
    released.set()
    while not work.flush(1):
        pass


def assert_true(value: object) -> None:
    assert value


def test_work_that_raises_does_not_end_the_thread() -> None:
    work, done = Background(), threading.Event()
    work.put(lambda: assert_true(False))
    work.put(done.set)
    assert work.flush(10)
    assert done.is_set()


def test_without_the_sdk_nothing_is_imported() -> None:
    code = """
import sys
from llmd_agents import program
with program("p"):
    pass
print(*sorted(name for name in sys.modules if name.startswith("opentelemetry")))
import opentelemetry.sdk.trace
with program("p") as run:
    print(run.history.span)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\nNone\n"


def test_a_provider_set_after_the_import_is_used() -> None:
    code = """
from llmd_agents import program
with program("before"):
    pass
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
provider = TracerProvider()
exporter = InMemorySpanExporter()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with program("after"):
    pass
print(*(span.name for span in exporter.get_finished_spans()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "invoke_workflow after\n"


def test_a_provider_that_does_nothing_switches_spans_off() -> None:
    use_tracer_provider(NoOpTracerProvider())
    try:
        told = Teller(SpansWhenTraced())
        with told.program(1.0):
            told.step("s1", 0.0, 1.0)
        assert told.history.span is None
    finally:
        use_tracer_provider(None)
