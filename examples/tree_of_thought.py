"""Tree of thought: eight thoughts from one long context, a judge picks two, both are worked out.

plan → 8 thoughts → judge → 2 drafts → answer: 13 steps and two forks.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/tree_of_thought.py http://127.0.0.1:8000/v1

For a server of another kind, set MODEL and OPENAI_API_KEY.
"""

import asyncio
import os
import sys
from typing import Any

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam as Message
from pydantic import BaseModel

from llmd_agents import Forecast, Run, instrument, mark, program

ANGLES = ("cost", "risk", "time", "people", "law", "materials", "upkeep", "precedent")
TASK = "You plan coastal defences. Think step by step and keep to the documents."


class Choice(BaseModel):
    """The judge's answer."""

    best: list[int]
    rationale: str


async def decide(tree: Run, client: AsyncOpenAI, documents: str) -> str:
    """Returns a decision, thought through from several angles."""
    question = mark(f"{documents}\nWhich questions decide this?", "document", lifetime="program")
    shared: list[Message] = [
        {"role": "system", "content": TASK},
        user(question),
    ]

    async def ask(step: str, *more: Message) -> str:
        reply = await client.chat.completions.create(messages=[*shared, *more], **model(step))
        return reply.choices[0].message.content or ""

    async def think(angle: str) -> str:
        with tree.label(kind="reason"):
            return await ask("think", angle_on(angle))

    async def expand(index: int) -> str:
        thought: Message = {"role": "assistant", "content": thoughts[index]}
        with tree.label(kind="reason"):
            return await ask("expand", angle_on(ANGLES[index]), thought, user("Work this out in full."))

    # Said ahead of time: engines can get the documents before the branches ask for them.
    with tree.label(kind="plan", forecast=Forecast(next="fork", fan_out=len(ANGLES))):
        shared.append({"role": "assistant", "content": await ask("plan")})

    async with tree.fork(len(ANGLES), name="think") as fork:
        thoughts = await fork.map(think, ANGLES)

    listed = "\n\n".join(f"{index}. {thought}" for index, thought in enumerate(thoughts))
    with tree.label(kind="evaluate", forecast=Forecast(next="fork", fan_out=2)):
        judged = await client.chat.completions.parse(
            messages=[*shared, user(f"Pick the best two.\n\n{listed}")],
            response_format=Choice,
            **model("judge"),
        )
    choice = judged.choices[0].message.parsed
    chosen = [index for index in choice.best if index in range(len(thoughts))] if choice else []
    best = chosen[:2] or [0, 1]

    async with tree.fork(len(best), name="expand") as fork:
        drafts = await fork.map(expand, best)

    with tree.label(kind="synthesize", forecast=Forecast(next="end")):
        return await ask("answer", user("Decide between these.\n\n" + "\n\n".join(drafts)))


def angle_on(angle: str) -> Message:
    return user(f"Think it through from the angle of {angle}.")


def user(text: str) -> Message:
    return {"role": "user", "content": text}


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    async with instrument(AsyncOpenAI(base_url=base_url, api_key=api_key)) as client:
        async with program("tree-of-thought") as tree:
            print(await decide(tree, client, made_up(30_000)))
        print(tree.report())


# What follows serves the demonstration alone: replies, and a text of a given length.


def model(step: str) -> dict[str, Any]:
    """The embedded engine replies to each step by a script; other servers ignore the header."""
    script = {"x-llmd-script": f"tree-of-thought/{step}"}
    return {"model": os.environ.get("MODEL", "demo"), "extra_headers": script}


def made_up(tokens: int, seed: int = 0) -> str:
    """Returns documents as long as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"{line}. What gauge {seed * 37 + line * 7} says about the coast.\n" for line in range(tokens))
    return "".join(lines)[: tokens * 4]


async def run(client: AsyncOpenAI, *, seed: int, program_id: str) -> str:
    """Runs the program once, as `llmd-agents demo` does."""
    async with program("tree-of-thought", id=program_id) as tree:
        return await decide(tree, client, made_up(30_000, seed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
