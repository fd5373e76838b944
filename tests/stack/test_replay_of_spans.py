"""A program that was traced is played again from its spans."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmd_agents.bench import read_recordings
from llmd_agents.client import instrument, program, tool_call
from llmd_agents.client.telemetry import use_tracer_provider
from llmd_agents.demo.replay import ReplayOptions, ReplayReport, replay
from llmd_agents.engine import EngineServer
from tests.conftest import TRACES
from tests.stack.servers import Stack, small_profile, stack

SPEED = 50.0


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_tracer_provider(provider)
    yield exporter
    use_tracer_provider(None)
    provider.shutdown()


async def review(client: AsyncOpenAI, files: int) -> str:
    """Plans, reads files on branches of their own, each with a tool between two steps, and sums up."""
    context = [
        {"role": "system", "content": "You review code. " * 60},
        {"role": "user", "content": "These files changed. " * 40},
    ]

    async def say(messages: list[dict[str, str]], text: str) -> list[dict[str, str]]:
        asked = [*messages, {"role": "user", "content": text}]
        reply = await client.chat.completions.create(model="any", messages=asked, max_tokens=20)  # type: ignore[arg-type]
        return [*asked, {"role": "assistant", "content": reply.choices[0].message.content or ""}]

    async with program("review") as run:
        with run.label(agent="lead"):
            context = await say(context, "Plan the review.")

        async def read(number: int) -> None:
            with run.label(agent="reader"):
                mine = await say(context, f"Read file {number}. " * 20)
                with tool_call("tests"):
                    await asyncio.sleep(0.01)
                await say(mine, "What did the tests say? " * 10)

        async with run.fork(files, name="read") as fork:
            await fork.map(read, range(files))
        await asyncio.gather(*(say(context, f"View {view}.") for view in "ab"))
        with run.label(agent="lead", kind="synthesize"):
            await say(context, "Sum up.")
        return run.id


def play(path: Path, on: Stack) -> ReplayReport:
    options = ReplayOptions(speed=SPEED)
    return asyncio.run(replay(read_recordings(path), on.router, on.engines, options))


def servers() -> list[EngineServer]:
    return [EngineServer(small_profile(num_blocks=20_000, max_model_len=20_000), time_scale=SPEED)]


def test_the_same_steps_edges_and_cached_tokens(exported: InMemorySpanExporter, tmp_path: Path) -> None:
    with stack(servers(), mode="observe") as first:

        async def main() -> str:
            async with instrument(AsyncOpenAI(base_url=f"{first.router}/v1", api_key="none")) as client:
                return await review(client, 4)

        graph = first.program(asyncio.run(main()))
    spans = exported.get_finished_spans()
    steps = [span.attributes or {} for span in spans if "llmd.step.id" in (span.attributes or {})]
    tokens = [
        sum(int(str(step[f"gen_ai.usage.{name}"])) for step in steps)
        for name in ("input_tokens", "cache_read.input_tokens")
    ]
    path = tmp_path / "spans.jsonl"
    path.write_text("".join(f"{span.to_json(indent=None)}\n" for span in spans))
    with stack(servers(), mode="observe") as second:
        report = play(path, second)
    assert report.failed == 0, report.first_error
    assert (report.steps, report.edges, report.branches) == (
        len(graph["steps"]),
        len(graph["edges"]),
        len(graph["branches"]),
    )
    assert report.steps == 12
    assert abs(report.prompt_tokens - tokens[0]) <= tokens[0] // 100
    # Replies that come back in later prompts were cached by who said them; in a replay they are new.
    replies = 20 * len(steps)
    assert abs(report.cached_tokens - tokens[1]) <= replies + 16 * len(steps)
    assert report.cached_tokens > tokens[0] // 2


@pytest.mark.parametrize(
    ("name", "steps", "edges"),
    [("fan_in_dependencies", 4, 4), ("parallel_requests", 5, 5), ("code_review_workflow", 15, 20)],
)
def test_spans_of_others(name: str, steps: int, edges: int) -> None:
    path = TRACES / "otel" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no recorded spans at {path}")
    with stack(servers()) as running:
        report = play(path, running)
    assert (report.requests, report.failed, report.steps, report.edges) == (steps, 0, steps, edges)


def test_without_hints_all_is_played_all_the_same() -> None:
    path = TRACES / "otel" / "parallel_requests.json"
    if not path.exists():
        pytest.skip(f"no recorded spans at {path}")
    with stack(servers()) as running:
        options = ReplayOptions(speed=SPEED, hints=False)
        report = asyncio.run(replay(read_recordings(path), running.router, running.engines, options))
    assert (report.requests, report.failed, report.steps) == (5, 0, 0)
