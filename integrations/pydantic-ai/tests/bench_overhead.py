"""What the adapter adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

Runs of 8 turns, with a tool each. In both arms they are within a program, and their model's HTTP client sends
hints: what remains is the adapter's own cost, from the run's beginning to its end, divided by its calls. The
arms take turns. Counted is the CPU's time, in which a busy machine shows less.
"""

import asyncio
import json
import statistics
import time
from typing import Any

import httpx2
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from llmd_agents import attach, program
from llmd_agents_pydantic_ai import ProgramHints

TURNS = 8
RUNS = 150


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


async def look_up() -> str:
    return "found"


async def timed(agent: Agent) -> float:
    """Returns the seconds of CPU that a call took."""
    async with program("bench"):
        began = time.thread_time()
        result = await agent.run("begin")
        took = time.thread_time() - began
    return took / result.usage.requests


async def measure() -> dict[str, float]:
    http = attach(httpx2.AsyncClient(transport=httpx2.MockTransport(answer)))
    provider = OpenAIProvider(base_url="http://127.0.0.1:1/v1", api_key="none", http_client=http)
    model = OpenAIChatModel("m", provider=provider)
    plain = Agent(model, name="agent", tools=[look_up])
    hinted = Agent(model, name="agent", tools=[look_up], capabilities=[ProgramHints()])
    without: list[float] = []
    within: list[float] = []
    async with http:
        for number in range(RUNS):
            arms = [(plain, without), (hinted, within)]
            for agent, times in arms if number % 2 else reversed(arms):
                times.append(await timed(agent))
    added = statistics.median(within) - statistics.median(without)
    return {
        "p50_us_per_call_without": statistics.median(without) * 1e6,
        "p50_us_per_call_with": statistics.median(within) * 1e6,
        "p50_us_added_per_call": added * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps({name: round(value, 1) for name, value in asyncio.run(measure()).items()}))
