"""A recorded program as text: its shape on one line, or all of its structure for a snapshot."""

from __future__ import annotations

import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from llmd_agents.hints import ROOT_BRANCH

from .nodes import ForkNode, StepNode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llmd_agents.hints import LoopPosition

    from .graph import ProgramGraph

Item: TypeAlias = StepNode | ForkNode

_LOOP_NUMBER = re.compile(r"(?:^|-)l\d+\Z")


def program_shape(graph: ProgramGraph) -> str:
    """Returns what `ProgramGraph.shape` describes."""
    return " | ".join(_branch_shape(graph, branch) for branch in _roots(graph)) or "-"


def program_text(graph: ProgramGraph) -> str:
    """Returns what `ProgramGraph.to_text` describes, without a line end at its end."""
    lines = [f"program {graph.name or 'unnamed'}: {graph.outcome or 'running'}"]
    if graph.superseded:
        lines.append(f"  superseded {graph.superseded} times")
    for branch in _roots(graph):
        if branch != ROOT_BRANCH:
            lines.append("  branch")
        lines += _indented(_branch_lines(graph, branch), "  " if branch == ROOT_BRANCH else "    ")
    edges = sorted({f"  {one.label} > {other.label}" for one, other in graph.edges})
    return "\n".join([*lines, "edges", *edges] if edges else lines)


def _roots(graph: ProgramGraph) -> list[str]:
    """The branches that no fork began: the root branch, and those that were inferred."""
    found = [branch.id for branch in graph.branches if branch.fork is None and graph.on_branch(branch.id)]
    return sorted(found, key=lambda branch: (branch != ROOT_BRANCH, _branch_shape(graph, branch)))


def _waves(graph: ProgramGraph, branch: str) -> list[list[Item]]:
    """Groups what is on a branch by how many others on it come before; those of one group overlapped.

    A fork of which nothing came is left out: nobody made a call on its branches, and nobody waited for them.
    """
    items = {
        item.id: item
        for item in graph.on_branch(branch)
        if isinstance(item, StepNode) or item.joined or item.branches
    }
    before = {one: _before(graph, item, items) for one, item in items.items()}
    try:
        order: Iterable[str] = tuple(TopologicalSorter(before).static_order())
    except CycleError:  # only hints that were made up can say that a step waits for itself
        order = items
    depths: dict[str, int] = {}
    for one in order:
        depths[one] = 1 + max((depths.get(parent, 0) for parent in before[one]), default=0)
    waves: dict[int, list[Item]] = {}
    for one, depth in sorted(depths.items(), key=lambda entry: entry[1]):
        waves.setdefault(depth, []).append(items[one])
    return list(waves.values())


def _before(graph: ProgramGraph, item: Item, items: Mapping[str, Item]) -> list[str]:
    """Returns which of a branch's items one of them waits for, be it by way of other branches."""
    found: dict[str, None] = {}
    elsewhere: set[str] = set()
    pending = list(item.parents)
    while pending:
        parent = pending.pop()
        if parent in items:
            found[parent] = None
        elif parent not in elsewhere and (other := graph.item(parent)) is not None:
            elsewhere.add(parent)
            pending += other.parents
    return list(found)


def _branch_shape(graph: ProgramGraph, branch: str) -> str:
    parts: list[str] = []
    waves = _waves(graph, branch)
    for loop, group in groupby(
        zip(waves, _loops(waves), strict=True), key=lambda pair: pair[1] and pair[1].id
    ):
        members = list(group)
        if loop is None:
            parts += [_wave_shape(graph, wave) for wave, _ in members]
            continue
        turns = [
            " > ".join(_wave_shape(graph, wave) for wave, _ in turn)
            for _, turn in groupby(members, key=lambda pair: pair[1] and pair[1].iteration)
        ]
        parts.append(f"loop({_runs(turns)})")
    return " > ".join(parts) or "-"


def _loops(waves: list[list[Item]]) -> list[LoopPosition | None]:
    """Tells for each wave which turn of which loop it belongs to.

    Forks do not say so themselves: one between two steps of the same loop belongs to the turn before it.
    """
    told = [
        next((item.loop for item in wave if isinstance(item, StepNode) and item.loop is not None), None)
        for wave in waves
    ]
    only_forks = [all(isinstance(item, ForkNode) for item in wave) for wave in waves]
    for index in range(1, len(waves)):
        before = told[index - 1]
        if only_forks[index] and before is not None:
            after = next((told[at] for at in range(index, len(waves)) if not only_forks[at]), None)
            told[index] = before if after is not None and after.id == before.id else None
    return told


def _wave_shape(graph: ProgramGraph, wave: list[Item]) -> str:
    shapes = [_item_shape(graph, item) for item in wave]
    return shapes[0] if len(shapes) == 1 else f"together({_counted(shapes)})"


def _item_shape(graph: ProgramGraph, item: Item) -> str:
    if isinstance(item, ForkNode):
        shapes = [_branch_shape(graph, branch) for branch in item.branches]
        return f"fork({_counted([*shapes, *['-'] * (item.width - len(shapes))])})"
    return f"{item.label}!" if item.failed else item.label


def _counted(shapes: list[str]) -> str:
    """Joins what happened at the same time: the most frequent first, so that the order of a run is hidden."""
    counts = sorted(Counter(shapes).items(), key=lambda entry: (entry[0] == "-", -entry[1], entry[0]))
    return " | ".join(shape if count == 1 else f"{count}: {shape}" for shape, count in counts)


def _runs(shapes: list[str]) -> str:
    """Joins what happened one after another."""
    runs = [(shape, len(list(run))) for shape, run in groupby(shapes)]
    return " | ".join(shape if count == 1 else f"{count}: {shape}" for shape, count in runs)


def _branch_lines(graph: ProgramGraph, branch: str) -> list[str]:
    tools = [tool for tool in graph.tools if tool.branch == branch]
    called = [
        tool.name if tool.outcome == "ok" else f"{tool.name} ({tool.outcome or 'running'})" for tool in tools
    ]
    lines = [f"tools: {', '.join(called)}"] if called else []
    for wave in _waves(graph, branch):
        shown = sorted(_item_lines(graph, item) for item in wave)
        if len(shown) == 1:
            lines += shown[0]
        else:
            lines.append("together")
            lines += _indented([line for item in shown for line in item], "  ")
    return lines


def _item_lines(graph: ProgramGraph, item: Item) -> list[str]:
    if isinstance(item, StepNode):
        return [f"step {item.label}{_details(item)}"]
    joined = "joined" if item.joined else "not joined"
    lines = [f"fork {item.name or ''}".rstrip() + f": {item.width} branches, {joined}"]
    outcomes = {branch.id: branch.outcome for branch in graph.branches}
    blocks = Counter(
        (f"{outcomes[branch] or 'running'}", *_indented(_branch_lines(graph, branch), "  "))
        for branch in item.branches
    )
    for (outcome, *body), count in sorted(blocks.items(), key=lambda entry: (-entry[1], entry[0])):
        lines += [f"  {count} × {outcome}", *(f"  {line}" for line in body)]
    if unused := item.width - len(item.branches):
        lines.append(f"  {unused} × without calls")
    return lines


def _details(step: StepNode) -> str:
    return "".join(f", {detail}" for detail in _step_details(step))


def _step_details(step: StepNode) -> Iterator[str]:
    if step.model is not None:
        yield f"model {step.model}"
    if step.loop is not None:
        limit = "" if step.loop.limit is None else f" of {step.loop.limit}"
        name = _LOOP_NUMBER.sub("", step.loop.id)
        yield f"loop {name} {step.loop.iteration + 1}{limit}".replace("  ", " ")
    if step.join not in (None, "all"):
        yield f"join {step.join}"
    if step.forecast is not None:
        yield f"next {step.forecast.next}"
    if step.failed:
        yield "failed"


def _indented(lines: list[str], by: str) -> list[str]:
    return [by + line for line in lines]
