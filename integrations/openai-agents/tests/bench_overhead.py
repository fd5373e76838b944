"""What the adapter adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

Runs of 4 turns, with a tool each but the last, within one program. The model is an instrumented client in
both arms: what differs is the adapter, from a run's beginning to its end, divided by its calls. The arms take
turns, in a changing order, and what is added is the median of the differences of neighbours. As that is small
beside what the SDK does itself, the time within the adapter is told as well. The beginning and end of a run
are included in both.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx2
from agents import Agent, RunConfig, Runner, function_tool, set_trace_processors
from agents.tracing import Span, Trace, TracingProcessor
from openai import AsyncOpenAI

from llmd_agents import program
from llmd_agents_openai_agents import ProgramProcessor, model_provider

TURNS = 4
RUNS = 200
WARM_UP = 10


@function_tool
async def look_up() -> str:
    return "found"


def answer(request: httpx2.Request) -> httpx2.Response:
    """Answers in this process: nothing of a network is measured."""
    asked = len(json.loads(request.content)["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": "done"}
    if asked < 2 * (TURNS - 1):
        call = {"id": f"call_{asked}", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return httpx2.Response(200, json={**body, "choices": [choice]})


async def timed(options: RunConfig, processor: TracingProcessor) -> float:
    """Returns the seconds that a call took."""
    set_trace_processors([processor])
    agent = Agent[None]("agent", tools=[look_up])
    began = time.perf_counter()
    result = await Runner.run(agent, "begin", run_config=options)
    took = time.perf_counter() - began
    return took / len(result.raw_responses)


class Timed(TracingProcessor):
    """Adds up the time within another processor. Without one, the SDK makes spans nevertheless."""

    def __init__(self, inner: TracingProcessor | None) -> None:
        self.inner = inner
        self.seconds = 0.0

    def on_trace_start(self, trace: Trace) -> None:
        if self.inner is not None:
            self._add(self.inner.on_trace_start, trace)

    def on_trace_end(self, trace: Trace) -> None:
        if self.inner is not None:
            self._add(self.inner.on_trace_end, trace)

    def on_span_start(self, span: Span[Any]) -> None:
        if self.inner is not None:
            self._add(self.inner.on_span_start, span)

    def on_span_end(self, span: Span[Any]) -> None:
        if self.inner is not None:
            self._add(self.inner.on_span_end, span)

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...

    def _add(self, hook: Callable[[Any], None], told: Any) -> None:
        began = time.perf_counter()
        hook(told)
        self.seconds += time.perf_counter() - began


async def measure() -> dict[str, float]:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    times: dict[str, list[float]] = {"without": [], "with": []}
    in_hooks: list[float] = []
    async with (
        AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="none", http_client=http) as client,
        program("bench"),
    ):
        options = RunConfig(model="m", model_provider=model_provider(client, use_responses=False))
        arms = {"without": Timed(None), "with": Timed(ProgramProcessor())}
        for number in range(WARM_UP + RUNS):
            for arm in sorted(arms, reverse=bool(number % 2)):
                arms[arm].seconds = 0.0
                took = await timed(options, arms[arm])
                if number >= WARM_UP:
                    times[arm].append(took)
            if number >= WARM_UP:
                in_hooks.append(arms["with"].seconds / TURNS)
    added = [within - without for without, within in zip(*times.values(), strict=True)]
    return {
        **{f"p50_us_per_call_{arm}": statistics.median(each) * 1e6 for arm, each in times.items()},
        "p50_us_added_per_call": statistics.median(added) * 1e6,
        "p50_us_in_the_adapter_per_call": statistics.median(in_hooks) * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps({name: round(value, 1) for name, value in asyncio.run(measure()).items()}))
