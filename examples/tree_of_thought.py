"""Tree of thought: eight thoughts from one long problem, a judge picks two, both are worked out.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/tree_of_thought.py http://127.0.0.1:8000/v1
"""

import asyncio
import sys
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel

from llmd_agents import Forecast, instrument, program

ANGLES = ("cost", "risk", "time", "people", "law", "materials", "upkeep", "precedent")
TASK = "You plan coastal defences. Think step by step and keep to the documents."


class Choice(BaseModel):
    """The judge's answer."""

    best: list[int]
    rationale: str


async def run(client: AsyncOpenAI, *, seed: int = 0, program_id: str | None = None) -> str:
    """Runs the program once; returns its answer."""
    shared: list[dict[str, str]] = [
        {"role": "system", "content": TASK},
        {"role": "user", "content": documents(30_000, seed) + "\nWhich questions decide this?"},
    ]

    async def ask(step: str, *more: dict[str, str]) -> str:
        reply = await client.chat.completions.create(**request(step, *shared, *more))
        return reply.choices[0].message.content or ""

    async with program("tree-of-thought", id=program_id) as tree:
        # Said ahead of time: engines can get the documents before the branches ask for them.
        with tree.label(kind="plan", forecast=Forecast(next="fork", fan_out=len(ANGLES))):
            plan = await ask("plan")
        shared.append({"role": "assistant", "content": plan})

        async def think(angle: str) -> str:
            with tree.label(kind="reason"):
                return await ask("think", user(f"Think it through from the angle of {angle}."))

        async with tree.fork(len(ANGLES), name="think") as fork:
            thoughts = await fork.map(think, ANGLES)

        listed = "\n\n".join(f"{index}. {thought}" for index, thought in enumerate(thoughts))
        with tree.label(kind="evaluate", forecast=Forecast(next="fork", fan_out=2)):
            judged = await client.chat.completions.parse(
                response_format=Choice, **request("judge", *shared, user(f"Pick the best two.\n\n{listed}"))
            )
        choice = judged.choices[0].message.parsed
        best = choice.best[:2] if choice is not None else [0, 1]

        async def expand(index: int) -> str:
            thought = {"role": "assistant", "content": thoughts[index]}
            asked = user(f"Think it through from the angle of {ANGLES[index]}.")
            with tree.label(kind="reason"):
                return await ask("expand", asked, thought, user("Work this out in full."))

        async with tree.fork(len(best), name="expand") as fork:
            drafts = await fork.map(expand, best)

        with tree.label(kind="synthesize", forecast=Forecast(next="end")):
            return await ask("answer", user("Decide between these.\n\n" + "\n\n".join(drafts)))


def request(step: str, *messages: dict[str, str]) -> dict[str, Any]:
    # The embedded engine replies by this script; other servers ignore the header.
    headers = {"x-llmd-script": f"tree-of-thought/{step}"}
    return {"model": "demo", "messages": list(messages), "extra_headers": headers}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def documents(tokens: int, seed: int) -> str:
    """Returns as much text as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"{line}. What gauge {seed * 37 + line * 7} says about the coast.\n" for line in range(tokens))
    return "".join(line for line, _ in zip(lines, range(tokens // 10), strict=False))[: tokens * 4]


async def main(base_url: str) -> None:
    async with instrument(AsyncOpenAI(base_url=base_url, api_key="none")) as client:
        print(await run(client))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
