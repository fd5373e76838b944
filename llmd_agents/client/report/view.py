"""The graph as it is drawn: wide forks and long chains are one node each, so that it stays readable."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .model import Step, Tool
from .words import count, seconds

if TYPE_CHECKING:
    from .report import Report

FORK_SHOWN = 6
"""Most branches of a fork that are drawn one by one."""

NODES_SHOWN = 40
"""With more nodes than this, chains become one node each."""

NODES_MAX = 200
_LABEL_MAX = 28


@dataclass(frozen=True, slots=True)
class Node:
    """One step or tool, or several; `ids` are theirs."""

    kind: Literal["step", "tool", "fork", "chain"]
    title: str
    detail: str
    branch: str
    ids: tuple[str, ...]
    on_path: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class View:
    """Nodes in the order in which they began, edges between their indices, and how many did not fit."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    left_out: int


def view(report: Report) -> View:
    return _Drawing(report).view()


class _Drawing:
    def __init__(self, report: Report) -> None:
        activities: list[Step | Tool] = [*report.steps, *report.tools]
        self._activities: dict[str, Step | Tool] = {
            one.id: one for one in sorted(activities, key=lambda one: (one.started, one.ended))
        }
        self._report = report
        self._stacks = _stacks(report)
        self._edges = _edges(report)
        widths = _widths(report)
        self._fork_names = {
            _stack_name(fork.id): f"{shortened(fork.name or fork.id)} × {widths[fork.id]}"
            for fork in report.forks
        }

    def view(self) -> View:
        place = {one.id: self._stacks.get(one.branch, one.id) for one in self._activities.values()}
        if len(set(place.values())) > NODES_SHOWN:
            self._chain(place)
        members: defaultdict[str, list[Step | Tool]] = defaultdict(list)
        for one in self._activities.values():
            members[place[one.id]].append(one)
        index = {name: number for number, name in enumerate(list(members)[:NODES_MAX])}
        edges = {
            (index[place[one]], index[place[other]])
            for one, other in self._edges
            if place[one] in index and place[other] in index
        }
        return View(
            tuple(self._node(name, members[name]) for name in index),
            tuple(sorted((one, other) for one, other in edges if one < other)),
            len(members) - len(index),
        )

    def _chain(self, place: dict[str, str]) -> None:
        """Gives steps that follow one another on one branch the place of the first."""
        after: defaultdict[str, set[str]] = defaultdict(set)
        before: defaultdict[str, set[str]] = defaultdict(set)
        for source, target in self._edges:
            if place[source] != place[target]:
                after[place[source]].add(place[target])
                before[place[target]].add(place[source])
        first: dict[str, str] = {}
        agents: dict[str, str] = {}  # of a chain so far; a tool goes with the agent before it
        for one in self._activities.values():
            if place[one.id] != one.id:
                continue
            agent = _agent(one) if isinstance(one, Step) else None
            first[one.id] = one.id
            if len(before[one.id]) == 1:
                (previous,) = before[one.id]
                known = self._activities.get(previous)
                chain = first.get(previous, "")
                alike = agent is None or agents.get(chain) in (None, agent)
                if known and known.branch == one.branch and len(after[previous]) == 1 and chain and alike:
                    first[one.id] = chain
            if agent is not None:
                agents[first[one.id]] = agent
        place.update(first)

    def _node(self, name: str, members: list[Step | Tool]) -> Node:
        steps = [one for one in members if isinstance(one, Step)]
        tools = len(members) - len(steps)
        started, ended = min(one.started for one in members), max(one.ended for one in members)
        took = seconds(ended - started)
        only = members[0]
        kind: Literal["step", "tool", "fork", "chain"]
        if name in self._fork_names:
            kind = "fork"
            title = self._fork_names[name]
            detail = f"{_both(len(steps), tools)} · {took}"
        elif len(members) > 1 and steps:
            kind, title = "chain", f"{steps[0].id} … {steps[-1].id} {_agent(steps[0])}"
            if len(steps) == 1:
                title = f"{steps[0].id} {_agent(steps[0])}"
            detail = f"{_both(len(steps), tools)} · {took}"
        elif steps:
            kind = "step"
            title, detail = f"{only.id} {_agent(only)}", took
        else:
            kind, title, detail = "tool", only.tool if isinstance(only, Tool) else only.id, took
        return Node(
            kind,
            shortened(title.strip()) if kind != "fork" else title,
            detail,
            only.branch,
            tuple(one.id for one in members),
            any(one.on_path for one in members),
            any(one.outcome == "error" for one in members),
        )


def _agent(one: Step | Tool) -> str:
    return (one.agent or one.kind or "") if isinstance(one, Step) else ""


def _both(steps: int, tools: int) -> str:
    return count(steps, "step") + (f", {count(tools, 'tool')}" if tools else "")


def shortened(name: str) -> str:
    return name if len(name) <= _LABEL_MAX else f"{name[: _LABEL_MAX - 1]}…"


def _stack_name(fork: str) -> str:
    return f"fork {fork}"


def _stacks(report: Report) -> dict[str, str]:
    """Returns the stack in which a branch is drawn, if it is not by itself: the outermost wide fork's."""
    forks = {fork.id: fork for fork in report.forks}
    wide = _wide(report)
    fork_of = {branch.id: branch.fork for branch in report.branches}
    stacks: dict[str, str] = {}
    for branch in report.branches:
        at: str | None = branch.id
        seen: set[str] = set()
        while at is not None and at not in seen:
            seen.add(at)
            fork = fork_of.get(at)
            if fork is None or fork not in forks:
                break
            if fork in wide:
                stacks[branch.id] = _stack_name(fork)
            at = forks[fork].branch
    return stacks


def _widths(report: Report) -> Counter[str]:
    """Returns how many branches of each fork have begun."""
    return Counter(branch.fork for branch in report.branches if branch.fork is not None)


def _wide(report: Report) -> set[str]:
    return {fork for fork, branches in _widths(report).items() if branches > FORK_SHOWN}


def _edges(report: Report) -> list[tuple[str, str]]:
    """Returns who waits for whom, a tool standing between the steps before and after it."""
    tools: defaultdict[str, list[Tool]] = defaultdict(list)
    for tool in report.tools:
        tools[tool.branch].append(tool)
    steps = {step.id: step for step in report.steps}
    # All ends of a wide fork are in one node.
    wide = _wide(report)
    ends_of = {fork.id: fork.ends[:1] if fork.id in wide else fork.ends for fork in report.forks}

    def sources(step: Step) -> list[str]:
        return [one for name in step.after for one in ends_of.get(name, (name,)) if one in steps]

    on: defaultdict[str, list[Step]] = defaultdict(list)
    for step in report.steps:
        on[step.branch].append(step)
    ends = {branch: sorted((step.ended, step.id) for step in found) for branch, found in on.items()}
    starts = {branch: [step.started for step in found] for branch, found in on.items()}
    first = {branch: found[0] for branch, found in on.items()}
    edges: list[tuple[str, str]] = []
    bridged: set[tuple[str, str]] = set()
    for branch, found in tools.items():
        for tool in found:
            source = tool.asked_by if tool.asked_by in steps else None
            if source is None:
                index = bisect_right(ends.get(branch, []), (tool.started, "\U0010ffff")) - 1
                source = ends[branch][index][1] if index >= 0 else None
            index = bisect_left(starts.get(branch, []), tool.ended - 1e-6)
            target = on[branch][index].id if index < len(on[branch]) else None
            if source is not None:
                edges.append((source, tool.id))
            elif branch in first:
                edges += [(one, tool.id) for one in sources(first[branch])]
            if target is not None:
                edges.append((tool.id, target))
                if source is not None:
                    bridged.add((source, target))
    edges += [
        (one, step.id) for step in report.steps for one in sources(step) if (one, step.id) not in bridged
    ]
    return edges
