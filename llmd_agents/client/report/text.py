"""A report on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group as Stack
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .words import count, dollars, percent, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from .model import Group, Refusal
    from .report import Report

ROWS_MAX = 12


def text(report: Report) -> RenderableType:
    parts: list[RenderableType] = [_head(report), _totals(report)]
    if report.advice:
        parts.append(_section("What to change", _advice(report)))
    agents = [row for row in report.by_agent if row.name is not None]
    rows = report.by_agent if agents else report.by_kind
    if len(rows) > 1 or agents:
        parts.append(_section("Agents" if agents else "Kinds", _groups(rows)))
    if len(report.by_branch) > 1:
        parts.append(_section("Branches", _groups(report.by_branch)))
    if report.by_tool:
        parts.append(_section("Tools", _tools(report)))
    if report.breaks:
        parts.append(_section("Prompts that changed", _breaks(report)))
    parts.append(_section("Hints", _hints(report)))
    return Stack(*parts)


def _head(report: Report) -> Text:
    ended = report.outcome or "running"
    head = Text.assemble((report.name or report.program, "bold"), f"  {seconds(report.seconds)}, {ended}")
    facts = [count(len(report.steps), "step"), count(len(report.tools), "tool call")]
    if report.forks:
        facts.append(count(len(report.forks), "fork"))
    head.append(f"\n{', '.join(facts)}; {report.time.parallelism:.1f} at a time. {report.program}")
    if report.not_kept:
        head.append(f"\n{report.not_kept:,} records were not kept and are missing below.")
    return head


def _totals(report: Report) -> RenderableType:
    time, tokens = report.time, report.tokens
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for column in range(4):
        table.add_column(justify="right" if column % 2 else "left")
    left = [
        (f"critical path: {name}", f"{seconds(value)}  {percent(value, report.seconds):>5}")
        for name, value in (("model", time.model), ("tools", time.tool), ("own code", time.own))
    ]
    share = percent(tokens.cached, tokens.input)
    right = [
        ("input tokens", f"{tokens.input:,}"),
        ("of them cached", f"{tokens.cached:,}  {share:>5}"),
        ("output tokens", f"{tokens.output:,}"),
    ]
    for one, other in zip(left, right, strict=True):
        table.add_row(*one, *other)
    lines: list[RenderableType] = [table]
    if tokens.dollars is not None and tokens.dollars_saved is not None:
        lines.append(
            Text(f"input {dollars(tokens.dollars)}; the cache saved {dollars(tokens.dollars_saved)}")
        )
    if tokens.counted < len(report.steps):
        lines.append(Text(f"Tokens were counted in {tokens.counted} of {len(report.steps)} steps only."))
    return Padding(Stack(*lines), (1, 0, 0, 0))


def _section(title: str, content: RenderableType) -> RenderableType:
    return Padding(Stack(Text(title, "bold"), content), (1, 0, 0, 0))


def _advice(report: Report) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for number, one in enumerate(report.advice, 1):
        saved = f"up to {seconds(one.seconds)}" if one.seconds is not None else ""
        if one.tokens is not None:
            saved = f"{one.tokens:,} tokens"
        line = Text.assemble((one.what, "bold"), f" ({saved})" if saved else "", f"\n{one.why}")
        table.add_row(f"{number}.", line)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="ellipsis", no_wrap=True)
    return table


def _groups(rows: tuple[Group, ...]) -> RenderableType:
    table = _table("", "steps", "time", "on path", "input", "cached", "output")
    for row in rows[:ROWS_MAX]:
        table.add_row(
            Text("–" if row.name is None else row.name),
            f"{row.steps:,}",
            seconds(row.seconds),
            seconds(row.on_path),
            f"{row.input_tokens:,}",
            percent(row.cached_tokens, row.input_tokens),
            f"{row.output_tokens:,}",
        )
    return _cut(table, len(rows))


def _tools(report: Report) -> RenderableType:
    table = _table("", "calls", "errors", "time", "on path", "median", "expected")
    for row in report.by_tool[:ROWS_MAX]:
        table.add_row(
            Text(row.name),
            f"{row.calls:,}",
            f"{row.errors:,}",
            seconds(row.seconds),
            seconds(row.on_path),
            seconds(row.median),
            "" if row.expected is None else seconds(row.expected),
        )
    return _cut(table, len(report.by_tool))


def _breaks(report: Report) -> RenderableType:
    table = _table("", "steps", "tokens again")
    table.columns[0].no_wrap = False
    for row in report.breaks[:ROWS_MAX]:
        table.add_row(Text(f"{row.where}: {row.what}"), f"{len(row.steps):,}", f"{row.tokens:,}")
    return _cut(table, len(report.breaks))


def _cut(table: Table, rows: int) -> RenderableType:
    if rows <= ROWS_MAX:
        return table
    return Stack(table, Text(f"… and {rows - ROWS_MAX:,} more"))


def _hints(report: Report) -> RenderableType:
    hints = report.hints
    if not hints.answered:
        return Text("No server said what it did with them.")
    lines = [Text(f"The server answered them in {hints.answered} of {count(len(report.steps), 'step')}.")]
    accepted = ", ".join(f"{name} {times:,}" for name, times in hints.accepted)
    if accepted:
        lines.append(Text(f"applied: {accepted}"))
    lines += _refusals("clipped", hints.clipped)
    lines += _refusals("rejected", hints.rejected)
    if hints.resyncs:
        lines.append(Text(f"asked for the whole context again: {hints.resyncs:,}"))
    if hints.events_dropped:
        lines.append(Text(f"events that were not sent: {hints.events_dropped:,}"))
    return Stack(*lines)


def _refusals(name: str, refusals: Iterable[Refusal]) -> list[Text]:
    return [
        Text(f"{name}: {one.hint} {one.count:,}{f' ({one.reason})' if one.reason else ''}")
        for one in refusals
    ]
