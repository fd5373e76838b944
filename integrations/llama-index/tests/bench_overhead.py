"""What the adapter adds to a model call: `python -m tests.bench_overhead`, here, prints JSON.

Runs of a workflow (three steps, one call each) and an agent (three turns, two tools), within one program,
with and without the adapter in turn. The model is reached through the same hooked clients in both arms and
answers in this process: what differs is the adapter, from a run's beginning to its end, divided by its calls.
What is added is the median of the differences of neighbours, in microseconds: by the clock, and of the CPU,
which what else the machine does disturbs less.
"""

import asyncio
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
    if "tools" in asked and len(asked["messages"]) < 5:
        function = {"name": "look_up", "arguments": "{}"}
        call = {"id": f"call_{len(asked['messages'])}", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return httpx2.Response(200, json=body)


async def added(run: Callable[[], Awaitable[object]], rounds: int, calls: int) -> dict[str, float]:
    """Returns the medians of what a call takes without the adapter, and of what it takes more with it."""
    clocks = {"": time.perf_counter, "cpu_": time.thread_time}
    took: dict[tuple[str, bool], list[float]] = {(name, how): [] for name in clocks for how in (False, True)}
    for turn in range(rounds):
        for watched in (False, True) if turn % 2 else (True, False):
            (install if watched else uninstall)()
            began = {name: clock() for name, clock in clocks.items()}
            await run()
            for name, clock in clocks.items():
                took[name, watched].append((clock() - began[name]) / calls * 1e6)
    uninstall()
    report = {}
    for name in clocks:
        without, watched_too = (took[name, how][rounds // 10 :] for how in (False, True))
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
                "workflow": await added(line.run, rounds, 3),
                "agent": await added(lambda: agent.run(user_msg="begin"), rounds, 3),
            }
    print(json.dumps(report))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
