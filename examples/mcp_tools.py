"""A tool behind MCP that asks a model itself: its calls are steps of the program that calls it.

question → 2 tools side by side in another process, of which one makes 2 steps there → answer:
4 steps, 2 calls of tools.

pip install 'llmd-agents[mcp]'
llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/mcp_tools.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import os
import sys

from llmd_agents_mcp import LlmdAgentsExtension, attach, tool_hints
from mcp import Client, StdioServerParameters
from mcp.server.mcpserver import MCPServer
from openai import AsyncOpenAI

from llmd_agents import instrument, program

BASE_URL = "http://127.0.0.1:8000/v1"


async def ask(model: AsyncOpenAI, *messages: str) -> str:
    reply = await model.chat.completions.create(
        model=os.environ.get("MODEL", "any"),
        messages=[{"role": "user", "content": text} for text in messages],
    )
    return reply.choices[0].message.content or ""


def language_model(base_url: str) -> AsyncOpenAI:
    return instrument(AsyncOpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none")))


def archive(base_url: str) -> MCPServer:
    """The server: it knows nothing of the programs that call it."""
    hints = LlmdAgentsExtension()
    server = MCPServer("archive", extensions=[hints], middleware=[hints])

    @server.tool()
    async def summarize(title: str) -> str:
        """Reads a report and returns its gist. How long that takes is learned."""
        async with language_model(base_url) as model:
            notes = await ask(model, f"The report on {title}.", "Take notes.")
            return await ask(model, f"The report on {title}.", "Take notes.", notes, "Shorten them.")

    @server.tool()
    @tool_hints(expected=0.2, result_lifetime=3600, cacheable=True)
    async def tide_table(harbour: str) -> str:
        """Returns today's tides."""
        await asyncio.sleep(0.2)
        return f"High water at {harbour}: 04:10 and 16:35."

    return server


async def main(base_url: str = BASE_URL) -> None:
    command = StdioServerParameters(
        command=sys.executable, args=[__file__, "--serve", base_url], env=dict(os.environ)
    )
    async with (
        language_model(base_url) as model,
        attach(Client(command)) as tools,
        program("harbour-question") as run,
    ):
        await tools.list_tools()  # says how long they take
        question = await ask(model, "Can a coaster of 4 m draught enter today?")
        results = await asyncio.gather(
            tools.call_tool("summarize", {"title": "silting"}),
            tools.call_tool("tide_table", {"harbour": "North Quay"}),
        )
        facts = [result.content[0].text for result in results if result.content[0].type == "text"]
        answer = await ask(model, question, *facts, "Answer in one line.")
        print(f"{run.id}: {len(facts)} tools, answer: {answer[:40]}…")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        archive(*sys.argv[2:3]).run()
    else:
        asyncio.run(main(*sys.argv[1:2]))
