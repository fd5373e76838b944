"""The report of one program: made from its history, shown as text, page, graph or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from llmd_agents.linter import prices_from_environment

from . import figures
from .advice import advice
from .critical_path import critical_path
from .graph import Graph
from .model import (
    Advice,
    Branch,
    Break,
    Fork,
    Group,
    HintsEffect,
    PathPart,
    Step,
    TimeSpent,
    Tokens,
    Tool,
    ToolGroup,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmd_agents.linter import Prices

    from ..history import History, StepRecord

TEXT_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Report:
    """What a program did: `print` it, or use `to_html`, `to_mermaid` or `to_json`.

    Times are in seconds since the program's start.

    Attributes:
        version: of this form; members may be added to it, and what they mean does not change.
        started_at: Unix seconds.
        seconds: from start to end, or until now.
        outcome: None while the program runs.
        path: the critical path, without gaps.
        by_branch: branches of one fork are one row.
        advice: the most useful things to change, at most three.
        not_kept: records that are missing here, for there were too many.
    """

    version: Literal[1]
    program: str
    name: str | None
    started_at: float
    seconds: float
    outcome: str | None
    time: TimeSpent
    tokens: Tokens
    hints: HintsEffect
    advice: tuple[Advice, ...]
    breaks: tuple[Break, ...]
    by_agent: tuple[Group, ...]
    by_kind: tuple[Group, ...]
    by_model: tuple[Group, ...]
    by_branch: tuple[Group, ...]
    by_tool: tuple[ToolGroup, ...]
    path: tuple[PathPart, ...]
    steps: tuple[Step, ...]
    tools: tuple[Tool, ...]
    forks: tuple[Fork, ...]
    branches: tuple[Branch, ...]
    not_kept: int

    def to_json(self) -> str:
        """Returns the report as one JSON object; `schema` tells its form."""
        return TypeAdapter(Report).dump_json(self, indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Reads what `to_json` wrote.

        Raises:
            ValidationError: (a ValueError) if it is no report of this version.
        """
        return TypeAdapter(Report).validate_json(text)

    @staticmethod
    def schema() -> dict[str, Any]:
        """Returns the JSON Schema of `to_json`."""
        return TypeAdapter(Report).json_schema()

    def to_mermaid(self) -> str:
        """Returns the graph as a Mermaid flowchart; wide forks and long chains are one node each."""
        from .mermaid import mermaid

        return mermaid(self)

    def to_html(self) -> str:
        """Returns one self-contained page: what to change, a timeline, the graph and all tables."""
        from .page import page

        return page(self)

    def __rich__(self) -> RenderableType:
        from .text import text

        return text(self)

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=TEXT_WIDTH, color_system=None, force_terminal=False, legacy_windows=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def report_of(history: History, *, prices: Prices | None = None, events_dropped: int = 0) -> Report:
    """Makes the report of a program that has ended, or of what it has done so far.

    Args:
        prices: what tokens cost, by default as the environment says; no dollars are told of other models.
        events_dropped: lifecycle events that were given up.
    """
    prices = prices or prices_from_environment()
    graph = Graph(history)
    path = critical_path(graph)
    on_path = {(part.what, part.id) for part in path}
    by_tool = figures.tool_groups(graph, path)
    tokens = figures.tokens(graph, prices)
    breaks = figures.breaks(graph, prices)
    effect = figures.hints_effect(graph, events_dropped)

    def place(step: StepRecord) -> str:
        if step.fork is None:
            return step.branch
        fork = graph.forks.get(step.fork.id)
        return f"fork {(fork.name if fork else None) or step.fork.id}"

    return Report(
        version=1,
        program=history.program,
        name=history.name,
        started_at=history.started_at,
        seconds=graph.now,
        outcome=history.outcome,
        time=figures.time_spent(graph, path),
        tokens=tokens,
        hints=effect,
        advice=advice(graph, path, by_tool, tokens, breaks, effect),
        breaks=breaks,
        by_agent=figures.groups(graph, path, lambda step: step.agent),
        by_kind=figures.groups(graph, path, lambda step: step.kind),
        by_model=figures.groups(graph, path, lambda step: step.model),
        by_branch=figures.groups(graph, path, place),
        by_tool=by_tool,
        path=path,
        steps=tuple(
            Step(
                one.step,
                one.branch,
                one.parents,
                one.kind,
                one.agent,
                one.model,
                one.started,
                graph.ended(one),
                one.outcome,
                one.attempts,
                one.input_tokens,
                one.cached_tokens,
                one.output_tokens,
                ("model", one.step) in on_path,
            )
            for one in graph.steps
        ),
        tools=tuple(
            Tool(
                one.call,
                one.tool,
                one.branch,
                one.asked_by,
                one.started,
                graph.ended(one),
                one.outcome,
                one.expected,
                ("tool", one.call) in on_path,
            )
            for one in graph.tools
        ),
        forks=tuple(
            Fork(
                one.fork,
                one.name,
                one.branch,
                one.width,
                one.join,
                graph.last_steps(one.fork),
                one.started,
                graph.ended(one),
            )
            for one in graph.forks.values()
        ),
        branches=tuple(
            Branch(one.branch, one.fork, one.index, one.started, graph.ended(one), one.outcome)
            for one in graph.branches.values()
        ),
        not_kept=history.dropped,
    )
