"""ReAct with tools: a loop of thinking and calling tools, with far more tools on offer than are ever called.

Up to 12 turns of one tool each, then the answer: 13 steps on one branch, 12 calls of tools.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/react_tools.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import inspect
import json
import os
import random
import sys
from collections.abc import Callable
from typing import Any

from openai import AsyncOpenAI

from llmd_agents import Forecast, Run, instrument, program, tool

TURNS = 12


class Archive:
    """The harbour office's records. Each tool says how long it takes, most of the time."""

    def __init__(self, seed: int = 0) -> None:
        self.records = MadeUpRecords(seed)

    @tool(expected="3s")
    async def search(self, query: str) -> str:
        """Finds records by their words; returns their addresses and first lines."""
        return await self.records.found(median_ln_s=1.1, tokens=(500, 1000))

    @tool(expected="5s")
    async def open_page(self, address: str, question: str) -> str:
        """Opens one record; returns what it says about the question."""
        return await self.records.found(median_ln_s=1.6, tokens=(1000, 2000))

    @tool(expected="4s")
    async def run_query(self, statement: str) -> str:
        """Runs an SQL statement on the database of all tide gauges; returns rows."""
        return await self.records.found(median_ln_s=1.4, tokens=(500, 1500))


async def investigate(agent: Run, client: AsyncOpenAI, coast: str, archive: Archive) -> str:
    """Returns an answer, found by thinking and calling tools in turn."""
    tools = {each.__name__: each for each in (archive.search, archive.open_page, archive.run_query)}
    on_offer: list[Any] = [*map(definition, tools.values()), *connectors()]
    messages: list[Any] = [
        {"role": "system", "content": "Which sea walls must be raised first? Use one tool at a time."},
        {"role": "user", "content": coast},
    ]

    async def think() -> Any:
        reply = await client.chat.completions.create(messages=messages, tools=on_offer, **model("turn"))
        return reply.choices[0].message

    for _ in agent.loop("react", limit=TURNS):
        with agent.label(kind="act", forecast=Forecast(next="tool")):
            message = await think()
        if not message.tool_calls:
            return message.content or ""
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            function = tools.get(call.function.name, out_of_order)
            result = await function(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})

    with agent.label(kind="synthesize", forecast=Forecast(next="end")):
        return (await think()).content or ""


def definition(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns what the model is told of a tool, all of whose parameters are texts."""
    names = list(inspect.signature(function).parameters)
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": names,
    }
    about = {"name": function.__name__, "description": function.__doc__, "parameters": parameters}
    return {"type": "function", "function": about}


async def out_of_order(**_: str) -> str:
    return "This tool is out of order."


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    client = instrument(AsyncOpenAI(base_url=base_url, api_key=api_key))
    async with client, program("react-tools") as agent:
        print(await investigate(agent, client, "Coast 0.", Archive()))


# What follows serves the demonstration alone: replies, tools that nobody calls, and results made up.


def model(step: str) -> dict[str, Any]:
    """The embedded engine replies by a script; other servers ignore the header."""
    script = {"x-llmd-script": f"react/{step}"}
    return {"model": os.environ.get("MODEL", "demo"), "extra_headers": script}


def connectors() -> list[dict[str, Any]]:
    """Returns definitions of 40 tools, of about 10,000 tokens."""
    manual = "Takes texts and returns text; see the manual of the harbour office for limits and errors. "
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    names = [f"connector_{number}" for number in range(40)]
    about = [
        {"name": name, "description": f"{name}: {manual * 10:.864}", "parameters": texts} for name in names
    ]
    return [{"type": "function", "function": each} for each in about]


class MadeUpRecords:
    """Findings as long, and as long in coming, as the seed says."""

    def __init__(self, seed: int) -> None:
        self.draws = random.Random(seed)

    async def found(self, median_ln_s: float, tokens: tuple[int, int]) -> str:
        await asyncio.sleep(self.draws.lognormvariate(median_ln_s, 0.5))
        size = self.draws.randint(*tokens)
        numbers = ((self.draws.randint(1, 999), self.draws.randint(1, 99)) for _ in range(size))
        lines = (f"Gauge {gauge} read {height}.\n" for gauge, height in numbers)
        return "".join(lines)[: size * 4]  # the embedded engine counts four bytes as a token


async def run(client: AsyncOpenAI, *, seed: int, program_id: str) -> str:
    """Runs the program once, as `llmd-agents demo` does."""
    async with program("react-tools", id=program_id) as agent:
        return await investigate(agent, client, f"Coast {seed}.", Archive(seed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
