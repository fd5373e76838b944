"""What the adapter adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

Runs of 4 turns, with a tool each but the last, within one program: without any trace processor, with one that
does nothing, and with the adapter's, in turn. The model is reached through the same hooked client in all arms
and answers in this process: what differs is the processor, from a run's beginning to its end, divided by its
calls. What is added is the median of the differences of neighbours, in microseconds: by the clock, and of the
CPU, which what else the machine does disturbs less.
"""

import asyncio
import gc
import json
import statistics
import sys
import time
from typing import Any

import httpx2
from agents import Agent, RunConfig, Runner, function_tool, set_trace_processors
from agents.tracing import Span, Trace, TracingProcessor
from openai import AsyncOpenAI

from llmd_agents import program
from llmd_agents_openai_agents import ProgramProcessor, model_provider

TURNS = 4
WARM_UP = 5
COLLECT_EVERY = 10

CLOCKS = {"": time.perf_counter, "cpu_": time.thread_time}


class Idle(TracingProcessor):
    """A processor that is told, and does nothing."""

    def on_trace_start(self, trace: Trace) -> None: ...

    def on_trace_end(self, trace: Trace) -> None: ...

    def on_span_start(self, span: Span[Any]) -> None: ...

    def on_span_end(self, span: Span[Any]) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


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


async def timed(options: RunConfig, processors: list[TracingProcessor]) -> dict[str, float]:
    """Returns what a call took, in microseconds, by each clock."""
    set_trace_processors(processors)
    agent = Agent[None]("agent", tools=[look_up])
    began = {name: clock() for name, clock in CLOCKS.items()}
    result = await Runner.run(agent, "begin", run_config=options)
    took = {name: clock() - began[name] for name, clock in CLOCKS.items()}
    assert len(result.raw_responses) == TURNS
    return {name: seconds / TURNS * 1e6 for name, seconds in took.items()}


async def measure(runs: int) -> dict[str, float]:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    arms: dict[str, list[TracingProcessor]] = {
        "without": [],
        "idle": [Idle()],
        "added": [ProgramProcessor()],
    }
    took: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    names = list(arms)
    gc.disable()
    async with (
        AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="none", http_client=http) as client,
        program("bench"),
    ):
        options = RunConfig(model="m", model_provider=model_provider(client, use_responses=False))
        for turn in range(WARM_UP + runs):
            if turn % COLLECT_EVERY == 0:
                gc.collect()
            first = turn % len(names)
            for arm in (*names[first:], *names[:first]):
                took[arm].append(await timed(options, arms[arm]))
    report = {}
    for name in CLOCKS:
        without, idle, hinted = ([one[name] for one in took[arm][WARM_UP:]] for arm in names)
        report[f"{name}p50_without_us"] = round(statistics.median(without), 1)
        for arm, found in (("idle_", idle), ("", hinted)):
            more = [one - other for one, other in zip(found, without, strict=True)]
            report[f"{name}p50_{arm}added_us"] = round(statistics.median(more), 1)
    return report


def main(runs: int = 120) -> None:
    print(json.dumps(asyncio.run(measure(runs))))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
