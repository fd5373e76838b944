"""The timeline: one row a branch, bars for steps and tools, as HTML."""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING

from .model import Step, Tool
from .words import count, percent, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Branch, PathPart
    from .report import Report

ROWS_MAX = 1000
OPEN_BRANCHES = 16
"""Forks with more branches than this are shown folded."""

THIN_MAX = 400
"""Most bars in the row that stands for a whole fork."""

_STACKED_MAX = 12
"""Most bars above one another in one row."""

_KINDS = {"model": "Model", "tool": "Tool", "own": "Own code"}


class Timeline:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._all = report.seconds if report.seconds > 1e-6 else 1.0
        self._on: defaultdict[str, list[Step | Tool]] = defaultdict(list)
        both: list[Step | Tool] = [*report.steps, *report.tools]
        for one in both:
            self._on[one.branch].append(one)
        self._tools = {tool.id: tool.tool for tool in report.tools}
        self._rows = 0
        self._left_out = 0

    def html(self) -> str:
        report = self._report
        branches = {branch.id for branch in report.branches if branch.fork is not None}
        parts = [self._axis(), self._path()]
        parts += [self._row(name) for name in self._on if name not in branches]
        names = {fork.id: fork.name or fork.id for fork in report.forks}
        of: defaultdict[str, list[Branch]] = defaultdict(list)
        for branch in report.branches:
            if branch.fork is not None:
                of[branch.fork].append(branch)
        parts += [self._fork(names.get(fork, fork), found) for fork, found in of.items()]
        if self._left_out:
            parts.append(f"<p>{count(self._left_out, 'branch')} more did not fit.</p>")
        return "".join(parts)

    def _axis(self) -> str:
        step = _round_step(self._all / 6)
        marks = [index * step for index in range(int(self._all / step + 1e-9) + 1)]
        labels = "".join(
            f'<span{" class=end" if at > 0.93 * self._all else ""} style="left:{self._share(at)}">'
            f"{f'{at:g} s' if at < 60 else seconds(at)}</span>"
            for at in marks
        )
        # The lines go through all rows below.
        lines = "".join(f'<i style="left:{self._share(at)}"></i>' for at in marks[1:])
        return (
            f'<div class="row axis" aria-hidden="true"><div class="label"></div>'
            f'<div class="track">{labels}{lines}</div></div>'
        )

    def _path(self) -> str:
        parts = "".join(self._part(part) for part in self._report.path)
        return f'<div class="row whole">{_cells("critical path", parts)}</div>'

    def _part(self, part: PathPart) -> str:
        took = seconds(part.ended - part.started)
        name = self._tools.get(part.id, part.id) if part.what == "tool" and part.id else part.id or ""
        said = f"{_KINDS[part.what]} {name}: {took}" if name else f"{_KINDS[part.what]}: {took}"
        return _bar("span", part.what + " on", self._place(part.started, part.ended), said, name, "")

    def _fork(self, name: str, branches: list[Branch]) -> str:
        rows = "".join(self._row(branch.id, branch) for branch in branches)
        opened = " open" if len(branches) <= OPEN_BRANCHES else ""
        started, ended = min(one.started for one in branches), max(one.ended for one in branches)
        bar = _bar("span", "fork", self._place(started, ended), f"{name}: {seconds(ended - started)}", "", "")
        inside = [one for branch in branches for one in self._on.get(branch.id, ())]
        # What is on the critical path is drawn last, and so on top.
        inside.sort(key=lambda one: (one.on_path, one.started))
        bar += "".join(
            f'<i class="bar thin {_kind(one)}{" on" if one.on_path else ""}" '
            f'style="{self._place(one.started, one.ended)}"></i>'
            for one in inside[-THIN_MAX:]
        )
        label = f"{escape(name)} <small>× {len(branches):,}</small>"
        summary = f'<summary><div class="row">{_cells(label, bar)}</div></summary>'
        return f'<details class="fork"{opened}>{summary}{rows}</details>'

    def _row(self, name: str, branch: Branch | None = None) -> str:
        self._rows += 1
        if self._rows > ROWS_MAX:
            self._left_out += 1
            return ""
        activities = sorted(self._on.get(name, ()), key=lambda one: (one.started, -one.ended))
        levels = _levels(activities)
        bars = "".join(self._activity(one, level) for one, level in zip(activities, levels, strict=True))
        outcome = branch.outcome if branch is not None and branch.outcome not in (None, "ok") else None
        note = f" <small>{escape(outcome)}</small>" if outcome else ""
        height = max(levels, default=0) + 1
        return f'<div class="row" style="--levels:{height}">{_cells(escape(name) + note, bars)}</div>'

    def _activity(self, one: Step | Tool, level: int) -> str:
        took = seconds(one.ended - one.started)
        if isinstance(one, Step):
            name = one.agent or one.kind or one.id
            told = [one.id, one.agent, one.kind, one.model, took]
            if one.input_tokens is not None:
                told.append(f"{one.input_tokens:,} tokens in")
                told.append(f"{percent(one.cached_tokens or 0, one.input_tokens)} cached")
        else:
            name = one.tool
            told = [one.tool, took]
        if one.outcome not in (None, "ok"):
            told.append(one.outcome)
        classes = f"{_kind(one)}{' on' if one.on_path else ''}{' failed' if one.outcome == 'error' else ''}"
        said = ", ".join(part for part in told if part)
        link = f' href="#{escape(one.id)}"' if isinstance(one, Step) else ""
        place = f"{self._place(one.started, one.ended)};--level:{level}"
        return _bar("a" if link else "span", classes, place, said, name, link)

    def _place(self, started: float, ended: float) -> str:
        return f"left:{self._share(started)};width:{self._share(ended - started)}"

    def _share(self, value: float) -> str:
        return f"{min(max(value / self._all, 0), 1):.4%}"


def _cells(label: str, track: str) -> str:
    return f'<div class="label">{label}</div><div class="track">{track}</div>'


def _kind(one: Step | Tool) -> str:
    return "model" if isinstance(one, Step) else "tool"


def _bar(tag: str, classes: str, place: str, said: str, text: str, link: str) -> str:
    said = escape(said)
    return f'<{tag} class="bar {classes}" style="{place}" title="{said}"{link}>{escape(text)}</{tag}>'


def _levels(activities: Sequence[Step | Tool]) -> list[int]:
    """Returns the level of each bar, so that those that overlap lie above one another."""
    free: list[float] = []
    levels = []
    for one in activities:
        level = next((index for index, ended in enumerate(free) if ended <= one.started + 1e-9), len(free))
        if level == len(free) and level < _STACKED_MAX:
            free.append(one.ended)
        level = min(level, _STACKED_MAX - 1)
        free[level] = max(free[level], one.ended)
        levels.append(level)
    return levels


def _round_step(least: float) -> float:
    """Returns the smallest of 1, 2 and 5 times a power of ten (or of minutes) that is not below `least`."""
    for step in (30, 60, 120, 300, 600, 1800, 3600) if least > 20 else ():
        if step >= least:
            return step
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
