"""Plays a program that spans tell of: every step once what it waited for is over, and as long after that."""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

from llmd_agents.bench.recorded_program import RecordedFork, RecordedStep
from llmd_agents.client import program, tool_call
from llmd_agents.hints import ROOT_BRANCH

if TYPE_CHECKING:
    from llmd_agents.bench import SessionText
    from llmd_agents.bench.recorded_program import RecordedProgram, RecordedTool
    from llmd_agents.client import Run

    from .caller import Caller
    from .replay_report import ReplayOptions

Item: TypeAlias = RecordedStep | RecordedFork


class ProgramPlayer:
    """Plays one program.

    Args:
        text: makes the prompts, of all programs of one recording.
    """

    def __init__(
        self, caller: Caller, recorded: RecordedProgram, options: ReplayOptions, text: SessionText
    ) -> None:
        self.program_id: str | None = None
        self._caller = caller
        self._recorded = recorded
        self._options = options
        self._text = text
        items: list[Item] = sorted((*recorded.forks, *recorded.steps), key=lambda one: one.started)
        self._items: defaultdict[str, list[Item]] = defaultdict(list)
        for item in items:
            self._items[item.branch].append(item)
        self._ended = {item.id: item.ended for item in items}
        self._over = {item.id: asyncio.Event() for item in items}
        self._tools, self._last_tools = _tools_before(self._items, recorded.tools)
        self._next = _next_steps(recorded.steps)
        self._previous = _next_steps(recorded.steps[::-1])

    async def play(self) -> None:
        await asyncio.sleep(self._shortened(self._recorded.delay_s))
        if not self._options.hints:
            await self._branch(None, ROOT_BRANCH, 0.0)
            return
        async with program(self._recorded.name) as run:
            self.program_id = run.id
            await self._branch(run, ROOT_BRANCH, 0.0)

    async def _branch(self, run: Run | None, branch: str, began: float) -> None:
        items = self._items[branch]
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(self._item(run, item, began))
        ended = max([began, *(item.ended for item in items)])
        await self._wait(self._last_tools[branch], ended, ended)

    async def _item(self, run: Run | None, item: Item, began: float) -> None:
        for name in item.parents:
            await self._over[name].wait()
        free_at = max([began, *(self._ended[name] for name in item.parents)])
        await self._wait(self._tools[item.id], free_at, max(item.started, free_at))
        if isinstance(item, RecordedFork):
            await self._fork(run, item)
        elif run is None:
            await self._call(item)
        else:
            with run.label(kind=item.kind, agent=item.agent):
                await self._call(item)
        self._over[item.id].set()

    async def _fork(self, run: Run | None, fork: RecordedFork) -> None:
        async def play(branch: tuple[str, float]) -> None:
            name, started = branch
            await asyncio.sleep(self._shortened(started - fork.started))
            await self._branch(run, name, started)

        if run is None:
            await asyncio.gather(*map(play, fork.branches))
            return
        async with run.fork(fork.width, name=fork.name) as declared:
            await declared.map(play, fork.branches)

    async def _wait(self, tools: list[RecordedTool], free_at: float, until: float) -> None:
        """Waits as long as the recording did from `free_at` to `until`, and calls the tools of that time."""
        until = max([until, *(tool.ended for tool in tools)])
        gap = until - free_at
        scale = self._shortened(gap) / gap if gap > 0 else 0.0

        async def call(tool: RecordedTool) -> None:
            await asyncio.sleep(max(tool.started - free_at, 0.0) * scale)
            with tool_call(tool.tool) if self._options.hints else contextlib.nullcontext():
                await asyncio.sleep((tool.ended - max(tool.started, free_at)) * scale)

        async with asyncio.TaskGroup() as group:
            for tool in tools:
                group.create_task(call(tool))
            await asyncio.sleep(gap * scale)

    def _shortened(self, seconds: float) -> float:
        return min(max(seconds, 0.0), self._options.max_gap_s) / self._options.speed

    async def _call(self, step: RecordedStep) -> None:
        following, previous = self._next.get(step.id), self._previous.get(step.id)
        prompt = self._text.prompt(
            step.blocks,
            step.input_tokens,
            reply_tokens=previous.output_tokens if previous is not None else 0,
            next_blocks=following.blocks if following is not None else (),
        )
        await self._caller.call(step.model, prompt, step.output_tokens)


def _tools_before(
    items: dict[str, list[Item]], tools: tuple[RecordedTool, ...]
) -> tuple[defaultdict[str, list[RecordedTool]], defaultdict[str, list[RecordedTool]]]:
    """Returns tools by the step or fork that came after them on their branch, and those that came last."""
    before: defaultdict[str, list[RecordedTool]] = defaultdict(list)
    last: defaultdict[str, list[RecordedTool]] = defaultdict(list)
    starts = {branch: [item.started for item in found] for branch, found in items.items()}
    for tool in tools:
        index = bisect_left(starts.get(tool.branch, []), tool.ended - 1e-3)
        if index < len(starts.get(tool.branch, [])):
            before[items[tool.branch][index].id].append(tool)
        else:
            last[tool.branch].append(tool)
    return before, last


def _next_steps(steps: tuple[RecordedStep, ...]) -> dict[str, RecordedStep]:
    """Returns the step that follows on the same branch, by a step's id."""
    newest: dict[str, RecordedStep] = {}
    following: dict[str, RecordedStep] = {}
    for step in steps:
        if step.branch in newest:
            following[newest[step.branch].id] = step
        newest[step.branch] = step
    return following
