"""What the adapter adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

Runs of 8 turns, with a tool each. In both arms they are within a program, and their model is an instrumented client:
what remains is the adapter's own cost, from the run's beginning to its end, divided by its calls. The arms take turns.
"""

import asyncio
import json
import statistics
import time
from typing import Any

import httpx2
from agents import Agent, RunConfig, Runner, function_tool, set_trace_processors
from agents.tracing import TracingProcessor
from openai import AsyncOpenAI

from llmd_agents import program
from llmd_agents_openai_agents import ProgramProcessor, model_provider

TURNS = 8
RUNS = 150


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


async def timed(options: RunConfig, processors: list[TracingProcessor]) -> float:
    """Returns the seconds that a call took."""
    set_trace_processors(processors)
    agent = Agent[None]("agent", tools=[look_up])
    async with program("bench"):
        began = time.perf_counter()
        result = await Runner.run(agent, "begin", run_config=options)
        took = time.perf_counter() - began
    return took / len(result.raw_responses)


class Idle(ProgramProcessor):
    """Another processor: the SDK makes spans in both arms."""

    def __init__(self) -> None:
        super().__init__()
        self._gives_hints = False


async def measure() -> dict[str, float]:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with AsyncOpenAI(base_url="http://127.0.0.1:1/v1", api_key="none", http_client=http) as client:
        options = RunConfig(model="m", model_provider=model_provider(client, use_responses=False))
        without: list[float] = []
        within: list[float] = []
        for number in range(RUNS):
            arms = [(Idle(), without), (ProgramProcessor(), within)]
            for processor, times in arms if number % 2 else reversed(arms):
                times.append(await timed(options, [processor]))
    added = statistics.median(within) - statistics.median(without)
    return {
        "p50_us_per_call_without": statistics.median(without) * 1e6,
        "p50_us_per_call_with": statistics.median(within) * 1e6,
        "p50_us_added_per_call": added * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps({name: round(value, 1) for name, value in asyncio.run(measure()).items()}))
