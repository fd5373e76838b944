"""Investment pipeline: a researcher, an analyst and a writer make a memo; the researcher checks it.

researcher (4 filings) → analyst (3 scenarios) → writer → researcher → writer: 12 steps, 7 calls of tools.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/investment_pipeline.py http://127.0.0.1:8000/v1

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


class Agent:
    """One agent: its own instructions, its own conversation, perhaps one tool."""

    def __init__(
        self, memo: Run, client: AsyncOpenAI, name: str, instructions: str, tool: Any = None
    ) -> None:
        self.memo, self.client, self.name, self.tool = memo, client, name, tool
        self.messages: list[Any] = [{"role": "system", "content": instructions}]
        self.options = model(name) | ({"tools": [definition(tool)]} if tool is not None else {})

    async def ask(self, text: str, forecast: Forecast | None = None) -> str:
        """Puts a question; returns the answer, after as many calls of the tool as the agent likes.

        Args:
            forecast: what follows the answer; a tool that is called first says itself how long it takes.
        """
        self.messages.append({"role": "user", "content": text})
        while True:
            with self.memo.label(agent=self.name, forecast=forecast):
                reply = await self.client.chat.completions.create(messages=self.messages, **self.options)
            message: Any = reply.choices[0].message
            self.messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                result = await self.tool(**json.loads(call.function.arguments))
                self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


class Desk:
    """What the agents may use. Each tool says how long it takes, most of the time."""

    def __init__(self, seed: int = 0) -> None:
        self.draws = random.Random(seed)

    @tool(expected="3s")
    async def fetch(self, document: str, reason: str) -> str:
        """Fetches a filing: a report, a prospectus, a transcript."""
        await asyncio.sleep(self.draws.lognormvariate(1.1, 0.4))  # median 3 s
        return text(document, self.draws.randint(3000, 8000))

    @tool(expected="15s")
    async def run_model(self, scenario: str, note: str) -> str:
        """Runs the valuation model under a scenario; returns cash flows."""
        await asyncio.sleep(self.draws.lognormvariate(2.7, 0.3))  # median 15 s
        return text(scenario, 800)


async def write_memo(memo: Run, client: AsyncOpenAI, desk: Desk) -> str:
    """Returns an investment memo on a company."""
    researcher = Agent(memo, client, "researcher", text("You find and read filings.", 5951), desk.fetch)
    analyst = Agent(memo, client, "analyst", text("You value companies.", 7950), desk.run_model)
    writer = Agent(memo, client, "writer", text("You write memos.", 6000))

    # The analyst and the writer take about two minutes; then the researcher is asked again.
    asked_again = Forecast(next="tool", agent="analyst", after=120, sigma=0.5)
    findings = await researcher.ask("Find out what was filed on Aster Grid.", asked_again)
    valuation = await analyst.ask(f"What is this all worth?\n{findings}")
    draft = await writer.ask(f"Draft a memo.\n{findings}\n{valuation}", Forecast(next="tool", after=15))
    check = await researcher.ask(f"Is anything wrong in this?\n{draft}")
    return await writer.ask(f"Put this right.\n{check}", Forecast(next="end"))


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


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    async with instrument(AsyncOpenAI(base_url=base_url, api_key=api_key)) as client:
        async with program("investment-pipeline") as memo:
            print(await write_memo(memo, client, Desk()))
        print(memo.report())


# What follows serves the demonstration alone: replies, and texts of given lengths.


def model(agent: str) -> dict[str, Any]:
    """The embedded engine replies to each agent by a script; other servers ignore the header."""
    script = {"x-llmd-script": f"pipeline/{agent}"}
    return {"model": os.environ.get("MODEL", "demo"), "extra_headers": script}


def text(subject: str, tokens: int) -> str:
    """Returns as much text as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"{subject} See also note {line}.\n" for line in range(tokens))
    return "".join(lines)[: tokens * 4]


async def run(client: AsyncOpenAI, *, seed: int, program_id: str) -> str:
    """Runs the program once, as `llmd-agents demo` does."""
    async with program("investment-pipeline", id=program_id) as memo:
        return await write_memo(memo, client, Desk(seed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
