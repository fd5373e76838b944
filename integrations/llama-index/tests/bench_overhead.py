"""What the adapter adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

Runs of a workflow (three steps, one call each) and of an agent (three turns, a tool or two at once in all but
the last), within one program, with and without the adapter in turn. The model is reached through the same
hooked client in both arms and answers in this process: what differs is the adapter, from a run's beginning to
its end, divided by its calls. What is added is the median of the differences of neighbours, in microseconds:
by the clock, and of the CPU, which what else the machine does disturbs less.
"""

import asyncio
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from llama_index.llms.openai import OpenAI

from llmd_agents import attach, program
from llmd_agents_llama_index import install, uninstall
from tests.told import say

CALLS = 3
WARM_UP = 10
COLLECT_EVERY = 10

CLOCKS = {"": time.perf_counter, "cpu_": time.thread_time}


class Second(Event): ...


class Third(Event): ...


class Line(Workflow):
    llm: Any

    @step
    async def first(self, ev: StartEvent) -> Second:
        await self.llm.achat(say("one"))
        return Second()

    @step
    async def second(self, ev: Second) -> Third:
        await self.llm.achat(say("two"))
        return Third()

    @step
    async def third(self, ev: Third) -> StopEvent:
        await self.llm.achat(say("three"))
        return StopEvent()


async def look_up() -> str:
    """Looks up."""
    return "found"


def answer(request: httpx2.Request) -> httpx2.Response:
    """Answers in this process: nothing of a network is measured."""
    asked = json.loads(request.content)
    message: dict[str, Any] = {"role": "assistant", "content": "done"}
    turns = sum(one["role"] == "assistant" for one in asked["messages"])
    if "tools" in asked and turns < CALLS - 1:
        function = {"name": "look_up", "arguments": "{}"}
        width = 2 if "two" in str(asked["messages"][0]["content"]) else 1
        called = [
            {"id": f"call_{turns}_{one}", "type": "function", "function": function} for one in range(width)
        ]
        message = {"role": "assistant", "content": None, "tool_calls": called}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return httpx2.Response(200, json=body)


async def timed(run: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Returns what a call takes, in microseconds, by each clock."""
    began = {name: clock() for name, clock in CLOCKS.items()}
    await run()
    return {name: (clock() - began[name]) / CALLS * 1e6 for name, clock in CLOCKS.items()}


async def added(run: Callable[[], Awaitable[object]], rounds: int) -> dict[str, float]:
    """Returns the medians of what a call takes without the adapter, and of what it takes more with it."""
    took: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    gc.disable()
    for turn in range(WARM_UP + rounds):
        if turn % COLLECT_EVERY == 0:
            gc.collect()
        for watched in (False, True) if turn % 2 else (True, False):
            (install if watched else uninstall)()
            took[watched].append(await timed(run))
    gc.enable()
    uninstall()
    report = {}
    for name in CLOCKS:
        without, watched_too = ([one[name] for one in took[how][WARM_UP:]] for how in (False, True))
        more = [one - other for one, other in zip(watched_too, without, strict=True)]
        report[f"{name}p50_without_us"] = round(statistics.median(without), 1)
        report[f"{name}p50_added_us"] = round(statistics.median(more), 1)
    return report


async def main(rounds: int = 150) -> None:
    # LlamaIndex looks for an agent's steps among all that its class has, deprecated names too.
    warnings.simplefilter("ignore")
    async with attach(httpx2.AsyncClient(transport=httpx2.MockTransport(answer))) as client:
        options: Any = {"async_http_client": client}  # the openai package's clients are of another library
        llm = OpenAI(model="gpt-4o", api_base="http://local/v1", api_key="none", **options)
        line = Line()
        line.llm = llm
        agent = FunctionAgent(name="agent", tools=[look_up], llm=llm, streaming=False)
        with program("bench"):
            report = {
                "rounds": rounds,
                "workflow": await added(line.run, rounds),
                "agent": await added(lambda: agent.run(user_msg="one"), rounds),
                "agent_two_tools": await added(lambda: agent.run(user_msg="two"), rounds),
            }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
