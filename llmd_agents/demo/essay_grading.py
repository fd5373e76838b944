"""The bundled program: one rubric, a fork of eight graders that share it, a join, a verdict."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
from openai import AsyncOpenAI
from rich.console import Console

from llmd_agents.client import instrument, program

from .fleet import local_fleet
from .program_tree import program_tree, totals_line

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

ENGINES = 3
GRADERS = 8
TIME_SCALE = 5.0

_TOPICS = ("tides", "bridges", "bees", "maps", "bread", "glass", "clocks", "rivers")


async def run_demo() -> None:
    """Starts three engines and a router, runs the program, prints its graph.

    Raises:
        FleetError: if the servers do not start.
    """
    console = Console()
    with contextlib.ExitStack() as stack:
        with console.status(f"starting {ENGINES} engines and a router"):
            fleet = stack.enter_context(local_fleet(ENGINES, ["--time-scale", str(TIME_SCALE)]))
        with console.status("running the program"):
            async with AsyncOpenAI(base_url=f"{fleet.router}/v1", api_key="demo") as client:
                program_id = await grade_essays(instrument(client))
            async with httpx.AsyncClient() as http:
                response = await http.get(f"{fleet.router}/v1/agent/programs/{program_id}")
                graph: dict[str, Any] = response.raise_for_status().json()
    console.print(program_tree(graph))
    console.print(totals_line(graph))
    console.print(
        "The engines are embedded ones: they model an inference server and its cache, and run no model."
    )


async def grade_essays(client: AsyncOpenAI) -> str:
    """Runs the program; returns its id."""
    task: ChatCompletionMessageParam = {"role": "system", "content": _paragraphs("rubric", 24_000)}
    async with program("essay-grading", priority=70, id="essay-grading-demo") as run:
        with run.label(kind="plan"):
            rubric = await _ask(client, [task, {"role": "user", "content": "Sum the rubric up."}])
        shared: list[ChatCompletionMessageParam] = [
            task,
            {"role": "user", "content": "Sum the rubric up."},
            {"role": "assistant", "content": rubric},
        ]

        async def grade(topic: str) -> str:
            essay = f"Grade this essay on {topic}. {_paragraphs(topic, 2_000)}"
            with run.label(kind="evaluate", agent="grader"):
                return await _ask(client, [*shared, {"role": "user", "content": essay}])

        async with run.fork(GRADERS, name="grade") as fork:
            grades = await fork.map(grade, _TOPICS)
        with run.label(kind="synthesize"):
            await _ask(client, [*shared, {"role": "user", "content": "\n".join(["Compare:", *grades])}])
    return run.id


async def _ask(client: AsyncOpenAI, messages: list[ChatCompletionMessageParam]) -> str:
    reply = await client.chat.completions.create(model="demo", messages=messages, max_tokens=120)
    return reply.choices[0].message.content or ""


def _paragraphs(subject: str, length: int) -> str:
    """Returns `length` characters of filler on a subject."""
    lines = (f"{number}. What the {subject} say about point {number}.\n" for number in range(1, length))
    text = ""
    while len(text) < length:
        text += next(lines)
    return text[:length]
