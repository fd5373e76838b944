"""ReAct: a loop of thinking and calling tools, with far more tools on offer than are ever called.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/react.py http://127.0.0.1:8000/v1
"""

import asyncio
import json
import random
import sys
from typing import Any

from openai import AsyncOpenAI

from llmd_agents import Forecast, instrument, program, tool

TURNS = 12
TASK = "Which sea walls must be raised first? Use one tool at a time."


def tool_definitions(tokens: int) -> list[dict[str, Any]]:
    """Returns definitions of about `tokens` tokens: the three tools below, and many that nobody calls."""
    names = ["search", "open_page", "run_query", *(f"connector_{number}" for number in range(tokens // 250))]
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    manual = "Takes texts and returns text; see the manual of the harbour office for limits and errors. "
    return [
        {
            "type": "function",
            "function": {"name": name, "description": f"{name}: {manual * 9}", "parameters": texts},
        }
        for name in names
    ]


async def run(client: AsyncOpenAI, *, seed: int = 0, program_id: str | None = None) -> str:
    """Runs the program once; returns its answer."""
    draws = random.Random(seed)

    @tool(expected="3s")
    async def search(query: str) -> str:
        await asyncio.sleep(draws.lognormvariate(1.1, 0.5))  # median 3 s
        return findings(draws.randint(500, 1000), draws)

    @tool(expected="5s")
    async def open_page(address: str, question: str) -> str:
        await asyncio.sleep(draws.lognormvariate(1.6, 0.5))
        return findings(draws.randint(1000, 2000), draws)

    @tool(expected="4s")
    async def run_query(statement: str) -> str:
        await asyncio.sleep(draws.lognormvariate(1.4, 0.5))
        return findings(draws.randint(500, 1500), draws)

    tools: dict[str, Any] = {"search": search, "open_page": open_page, "run_query": run_query}
    request: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "system", "content": TASK}, {"role": "user", "content": f"Coast {seed}."}],
        "tools": tool_definitions(10_000),
        # The embedded engine replies by this script; other servers ignore the header.
        "extra_headers": {"x-llmd-script": "react/turn"},
    }

    async with program("react", id=program_id) as agent:
        for _ in agent.loop("react", limit=TURNS):
            with agent.label(kind="act", forecast=Forecast(next="tool")):
                reply = await client.chat.completions.create(**request)
            message = reply.choices[0].message
            if not message.tool_calls:
                return message.content or ""
            request["messages"].append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                result = await tools[call.function.name](**json.loads(call.function.arguments))
                answer = {"role": "tool", "tool_call_id": call.id, "content": result}
                request["messages"].append(answer)
        with agent.label(kind="synthesize", forecast=Forecast(next="end")):
            reply = await client.chat.completions.create(**request)
        return reply.choices[0].message.content or ""


def findings(tokens: int, draws: random.Random) -> str:
    """Returns as much text as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"Gauge {draws.randint(1, 999)} read {draws.randint(1, 99)}.\n" for _ in range(tokens))
    return "".join(lines)[: tokens * 4]


async def main(base_url: str) -> None:
    async with instrument(AsyncOpenAI(base_url=base_url, api_key="none")) as client:
        print(await run(client))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
