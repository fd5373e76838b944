"""Pipeline: a researcher reads, an analyst computes, a writer drafts, and the researcher is asked once more.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/pipeline.py http://127.0.0.1:8000/v1
"""

import asyncio
import json
import random
import sys
from typing import Any

from openai import AsyncOpenAI

from llmd_agents import Forecast, Run, instrument, program, tool


class Agent:
    """One agent: its own instructions, its own conversation, perhaps one tool."""

    def __init__(self, client: AsyncOpenAI, run: Run, name: str, step: str, manual: str, tool: Any = None):
        self.client, self.run, self.name, self.tool = client, run, name, tool
        # The embedded engine replies by this script; other servers ignore the header.
        self.request: dict[str, Any] = {
            "model": "demo",
            "messages": [{"role": "system", "content": manual}],
            "extra_headers": {"x-llmd-script": f"pipeline/{step}"},
        }
        if tool is not None:
            self.request["tools"] = [{"type": "function", "function": {"name": tool.__name__}}]

    async def ask(self, text: str, forecast: Forecast | None = None) -> str:
        """Puts a question; returns the answer, after as many calls of the tool as the agent likes.

        Args:
            forecast: what follows the answer; a tool that is called first says itself how long it takes.
        """
        messages = self.request["messages"]
        messages.append({"role": "user", "content": text})
        while True:
            with self.run.label(agent=self.name, forecast=forecast):
                reply = await self.client.chat.completions.create(**self.request)
            message = reply.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                result = await self.tool(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


async def run(client: AsyncOpenAI, *, seed: int = 0, program_id: str | None = None) -> str:
    """Runs the program once; returns the final text."""
    draws = random.Random(seed)

    @tool(expected="3s")
    async def fetch(document: str, reason: str) -> str:
        await asyncio.sleep(draws.lognormvariate(1.1, 0.4))  # median 3 s
        return text(document, draws.randint(3000, 8000), seed)

    @tool(expected="15s")
    async def run_model(scenario: str, note: str) -> str:
        await asyncio.sleep(draws.lognormvariate(2.7, 0.3))  # median 15 s
        return text(scenario, 800, seed)

    async with program("pipeline", id=program_id) as line:
        researcher = Agent(client, line, "researcher", "research", text("sources", 6000, 0), fetch)
        analyst = Agent(client, line, "analyst", "analyse", text("methods", 8000, 0), run_model)
        writer = Agent(client, line, "writer", "write", text("style", 6000, 0))

        # The analyst and the writer take about two minutes; then the researcher is asked again.
        handover = Forecast(next="tool", agent="analyst", after=120, sigma=0.5)
        findings = await researcher.ask("Find out what is known of the harbour.", handover)
        analysis = await analyst.ask(f"What follows from this?\n{findings}")
        draft = await writer.ask(f"Write it up.\n{findings}\n{analysis}", Forecast(next="tool", after=15))
        critique = await researcher.ask(f"Is anything wrong in this?\n{draft}")
        return await writer.ask(f"Put this right.\n{critique}", Forecast(next="end"))


def text(subject: str, tokens: int, seed: int) -> str:
    """Returns as much text as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"{subject} {line} ({seed}): see the harbour files.\n" for line in range(tokens // 5))
    return "".join(lines)[: tokens * 4]


async def main(base_url: str) -> None:
    async with instrument(AsyncOpenAI(base_url=base_url, api_key="none")) as client:
        print(await run(client))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
