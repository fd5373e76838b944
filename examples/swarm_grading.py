"""Swarm grading: fifty graders read the same long rubric, each grades one essay, a coordinator reports.

plan → 50 grades → report: 52 steps and one fork.

llmd-agents engine --port 8001 &
llmd-agents router --engine http://127.0.0.1:8001 --port 8000 &
python examples/swarm_grading.py http://127.0.0.1:8000/v1

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


class Grade(BaseModel):
    """A grader's answer."""

    score: int
    rationale: str


async def grade_all(swarm: Run, client: AsyncOpenAI, rubric: str, essays: list[str]) -> str:
    """Returns a report on the essays, each of which was graded by the rubric."""
    question = mark(f"{rubric}\nWhat matters most in it?", "document", lifetime="program")
    shared: list[Message] = [
        {"role": "system", "content": "You grade essays by the rubric, strictly and alike."},
        user(question),
    ]

    async def grade(essay: str) -> Grade | None:
        with swarm.label(kind="evaluate", agent="grader"):
            reply = await client.chat.completions.parse(
                messages=[*shared, user(f"Grade this.\n{essay}")], response_format=Grade, **model("grade")
            )
        return reply.choices[0].message.parsed

    # Said ahead of time: engines can get the rubric before the graders ask for it.
    fork_ahead = Forecast(next="fork", fan_out=len(essays))
    with swarm.label(kind="plan", agent="coordinator", forecast=fork_ahead):
        plan = await client.chat.completions.create(messages=shared, **model("plan"))
    shared.append({"role": "assistant", "content": plan.choices[0].message.content or ""})

    async with swarm.fork(len(essays), name="grade") as fork:
        grades = await fork.map(grade, essays)

    listed = "\n".join(
        f"{number}: {grade.score}. {grade.rationale[:300]}" if grade else f"{number}: none"
        for number, grade in enumerate(grades)
    )
    with swarm.label(kind="synthesize", agent="coordinator", forecast=Forecast(next="end")):
        report = await client.chat.completions.create(
            messages=[*shared, user(f"Report on these.\n{listed}")], **model("report")
        )
    return report.choices[0].message.content or ""


def user(text: str) -> Message:
    return {"role": "user", "content": text}


async def main(base_url: str = "http://127.0.0.1:8000/v1") -> None:
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    client = instrument(AsyncOpenAI(base_url=base_url, api_key=api_key))
    async with client, program("swarm-grading") as swarm:
        print(await grade_all(swarm, client, *made_up()))


# What follows serves the demonstration alone: replies, and texts of given lengths.


def model(step: str) -> dict[str, Any]:
    """The embedded engine replies to each step by a script; other servers ignore the header."""
    script = {"x-llmd-script": f"swarm/{step}"}
    return {"model": os.environ.get("MODEL", "demo"), "extra_headers": script}


def made_up(seed: int = 0) -> tuple[str, list[str]]:
    """Returns a rubric of 30,000 tokens and fifty essays of 1,000."""
    return text("criterion", 30_000, seed), [text(f"essay {n} line", 1000, seed) for n in range(50)]


def text(subject: str, tokens: int, seed: int) -> str:
    """Returns as much text as the embedded engine counts as `tokens`: four bytes each."""
    lines = (f"{subject} {line} of {seed}: this counts {line % 7} points.\n" for line in range(tokens))
    return "".join(lines)[: tokens * 4]


async def run(client: AsyncOpenAI, *, seed: int, program_id: str) -> str:
    """Runs the program once, as `llmd-agents demo` does."""
    async with program("swarm-grading", id=program_id) as swarm:
        return await grade_all(swarm, client, *made_up(seed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
