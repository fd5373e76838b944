"""Fork and join: several drafts from one context, then a choice between them.

tool → brief → 3 drafts → choice: 5 steps, one fork, one call of a tool.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/fork_and_join.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import os
import sys

from openai import AsyncOpenAI

from llmd_agents import instrument, program, tool


@tool(expected="200ms", result_lifetime="branch")
async def look_up(subject: str) -> str:
    await asyncio.sleep(0.2)
    return f"Three facts about {subject}."


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    client = instrument(AsyncOpenAI(base_url=base_url, api_key=api_key))

    async def ask(*messages: str) -> str:
        reply = await client.chat.completions.create(
            model=os.environ.get("MODEL", "any"),
            messages=[{"role": "user", "content": text} for text in messages],
        )
        return reply.choices[0].message.content or ""

    async with client, program("drafting", priority=60) as run:
        facts = await look_up("lighthouses")
        brief = await ask(facts, "Write a brief.")

        async def draft(style: str) -> str:
            return await ask(facts, "Write a brief.", brief, f"Draft it in a {style} style.")

        async with run.fork(3, name="draft") as fork:
            drafts = await fork.map(draft, ["plain", "vivid", "terse"])

        choice = await ask(facts, "Write a brief.", brief, *drafts, "Choose one.")
        print(f"{run.id}: {len(drafts)} drafts, chose: {choice[:40]}…")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
