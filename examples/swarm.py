"""Swarm: fifty graders read the same long rubric, each grades one essay, a coordinator sums up.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/swarm.py http://127.0.0.1:8000/v1
"""

import asyncio
import sys
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel

from llmd_agents import Forecast, instrument, program

GRADERS = 50
TASK = "You grade essays by the rubric, strictly and alike."


class Grade(BaseModel):
    """A grader's answer."""

    score: int
    rationale: str


async def run(client: AsyncOpenAI, *, seed: int = 0, program_id: str | None = None) -> str:
    """Runs the program once; returns its answer."""
    shared: list[dict[str, str]] = [
        {"role": "system", "content": TASK},
        {"role": "user", "content": text("criterion", 30_000, seed) + "\nWhat matters most in it?"},
    ]

    async with program("swarm", id=program_id) as swarm:
        # Said ahead of time: engines can get the rubric before the graders ask for it.
        with swarm.label(kind="plan", agent="coordinator", forecast=Forecast(next="fork", fan_out=GRADERS)):
            reply = await client.chat.completions.create(**request("plan", *shared))
        shared.append({"role": "assistant", "content": reply.choices[0].message.content or ""})

        async def grade(number: int) -> str:
            essay = text(f"essay {number} line", 1000, seed)
            with swarm.label(kind="evaluate", agent="grader"):
                reply = await client.chat.completions.parse(
                    response_format=Grade, **request("grade", *shared, user(f"Grade this.\n{essay}"))
                )
            grade = reply.choices[0].message.parsed
            return f"{number}: {grade.score}. {grade.rationale[:300]}" if grade else f"{number}: none"

        async with swarm.fork(GRADERS, name="grade") as fork:
            grades = await fork.map(grade, range(GRADERS))

        with swarm.label(kind="synthesize", agent="coordinator", forecast=Forecast(next="end")):
            report = request("report", *shared, user("Report on these.\n" + "\n".join(grades)))
            reply = await client.chat.completions.create(**report)
        return reply.choices[0].message.content or ""


def request(step: str, *messages: dict[str, str]) -> dict[str, Any]:
    # The embedded engine replies by this script; other servers ignore the header.
    headers = {"x-llmd-script": f"swarm/{step}"}
    return {"model": "demo", "messages": list(messages), "extra_headers": headers}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def text(subject: str, tokens: int, seed: int) -> str:
    """Returns as much text as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"{subject} {line} of {seed}: this counts {line % 7} points.\n" for line in range(tokens))
    return "".join(line for line, _ in zip(lines, range(tokens // 5), strict=False))[: tokens * 4]


async def main(base_url: str) -> None:
    async with instrument(AsyncOpenAI(base_url=base_url, api_key="none")) as client:
        print(await run(client))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
