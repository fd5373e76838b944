"""Delegation on Pydantic AI: an editor's tools are other agents, two of which work side by side.

editor → (historian → tool → historian | geographer) → editor → checker → editor: 7 steps, 4 calls of tools.

pip install 'llmd-agents[pydantic-ai]'
llmd-agents engine --port 8001 --scripts examples/pydantic_ai_delegation.toml &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/pydantic_ai_delegation.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import os
import sys

from llmd_agents_pydantic_ai import ProgramHints
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def agent(name: str, instructions: str) -> Agent:
    # The embedded engine replies by a script; other servers ignore the header.
    script = ModelSettings(extra_headers={"x-llmd-script": f"pydantic_ai_delegation/{name}"})
    return Agent(name=name, instructions=instructions, model_settings=script, capabilities=[ProgramHints()])


editor = agent("editor", "Write an entry for a guide. Ask both experts at once, and have it checked.")
historian = agent("historian", "Tell of a place's past. Look into the archive first.")
geographer = agent("geographer", "Tell where a place is and what it looks like.")
checker = agent("checker", "Say in one sentence what is wrong with a text, if anything is.")


@editor.tool_plain
async def ask_historian(place: str) -> str:
    """Returns what happened at a place."""
    return (await historian.run(place)).output


@editor.tool_plain
async def ask_geographer(place: str) -> str:
    """Returns what a place is like."""
    return (await geographer.run(place)).output


@editor.tool_plain
async def check(text: str) -> str:
    """Returns what is wrong with a text."""
    return (await checker.run(text)).output


@historian.tool_plain
async def archive(place: str) -> str:
    """Returns records of a place."""
    await asyncio.sleep(0.2)
    return f"1834: a lighthouse is built on {place}."


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    provider = OpenAIProvider(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = OpenAIChatModel(os.environ.get("MODEL", "demo"), provider=provider)
    for one in (editor, historian, geographer, checker):
        one.model = model
    async with editor:
        result = await editor.run("Lundy")
    print(f"{result.usage.requests} steps of the editor: {result.output}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
