"""What `llmd-agents lint` does: reads recorded traffic and reports where prompt caches end."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .findings import dollars
from .linting import Linting
from .prices import BadPrice, parse_prices, prices_from_environment
from .traffic import BadTraffic, open_traffic, read_traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .findings import Finding
    from .prices import Prices

__all__ = ["BadPrice", "BadTraffic", "as_json", "configured_prices", "print_report", "run_lint"]

EXPLAINED_MAX = 10
"""Findings that are explained one by one; the table has all of them."""


def configured_prices(inputs: Sequence[str] | None, cached: Sequence[str] | None) -> Prices:
    """Returns the prices given as options, or those of the environment if none are.

    Raises:
        BadPrice: if one cannot be read.
    """
    if inputs or cached:
        return parse_prices(inputs or (), cached or ())
    return prices_from_environment()


def run_lint(paths: Sequence[Path], prices: Prices | None, min_tokens: int) -> Linting:
    """Reads files of recorded traffic one after another; `-` is standard input.

    Shows how far it is if there is a terminal to show it on.

    Raises:
        BadTraffic: if a file cannot be read.
    """
    linting = Linting(prices, min_tokens)
    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    known = [path.stat().st_size for path in paths if str(path) != "-" and path.is_file()]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=sum(known) if len(known) == len(paths) else None)
        for path in paths:
            with ExitStack() as files:
                is_stdin = str(path) == "-"
                stream = sys.stdin.buffer if is_stdin else files.enter_context(open_traffic(path))
                name = "standard input" if is_stdin else str(path)
                for recorded in read_traffic(stream, name, lambda size: bar.advance(task, size)):
                    linting.add(recorded)
    return linting


def as_json(linting: Linting) -> dict[str, Any]:
    """Returns the report as JSON: totals, then findings, the costliest first."""
    return {
        "requests": linting.requests,
        "unreadable": linting.unreadable,
        "compactions": linting.compactions,
        "prompt_tokens": linting.tokens,
        "recomputed_tokens": linting.findings.lost_tokens,
        "cost": linting.findings.cost,
        "findings": [_finding_as_json(finding) for finding in linting.findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    first = finding.first
    return {
        "cause": first.cause.value,
        "times": finding.times,
        "recomputed_tokens": finding.lost_tokens,
        "cost": finding.cost,
        "sentence": finding.sentence,
        "remedy": first.remedy,
        "first": {
            "branch": first.branch,
            "model": first.model,
            "message": first.message,
            "field": first.field,
            "byte": first.byte,
            "token": first.token,
            "kept_bytes": first.kept_bytes,
            "lost_bytes": first.lost_bytes,
            "excerpt": None if first.excerpt is None else dataclasses.asdict(first.excerpt),
        },
    }


def print_report(linting: Linting, console: Console) -> None:
    """Prints the report for people: totals, a table, and an explanation of each of the costliest findings."""
    findings = list(linting.findings)
    console.print(_totals(linting), soft_wrap=True)
    if not findings:
        return
    console.print()
    console.print(_table(findings))
    for number, finding in enumerate(findings[:EXPLAINED_MAX], 1):
        _explain(number, finding, console)
    if len(findings) > EXPLAINED_MAX:
        console.print(f"… and {len(findings) - EXPLAINED_MAX} more in the table above")


def _totals(linting: Linting) -> str:
    calls = f"{linting.requests:,} request{'' if linting.requests == 1 else 's'}"
    parts = [f"{calls} with {linting.tokens:,} prompt tokens"]
    if len(linting.findings):
        lost = linting.findings.lost_tokens
        share = f" ({_percent(lost / linting.tokens)})" if linting.tokens else ""
        cost = linting.findings.cost
        price = "" if cost is None else f", {dollars(cost)}"
        parts.append(f"{lost:,} of them were recomputed because a prefix changed{share}{price}")
    else:
        parts.append("every prompt extends the one before it")
    if linting.compactions:
        histories = "history was" if linting.compactions == 1 else "histories were"
        parts.append(f"{linting.compactions:,} {histories} compacted, which is not counted")
    if linting.unreadable:
        bodies = "body" if linting.unreadable == 1 else "bodies"
        parts.append(f"{linting.unreadable:,} {bodies} could not be read")
    return "; ".join(parts) + "."


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("cause", no_wrap=True)
    table.add_column("first seen at")
    for column in ("requests", "tokens\neach", "tokens\nin all"):
        table.add_column(column, justify="right", no_wrap=True)
    priced = any(finding.cost is not None for finding in findings)
    if priced:
        table.add_column("cost", justify="right", no_wrap=True)
    for finding in findings:
        row = [
            finding.first.cause.value.replace("_", " "),
            finding.first.where,
            f"{finding.times:,}",
            f"{finding.tokens_each_turn:,}",
            f"{finding.lost_tokens:,}",
        ]
        if priced:
            row.append("" if finding.cost is None else dollars(finding.cost).removeprefix("about "))
        table.add_row(*map(Text, row))
    return table


def _explain(number: int, finding: Finding, console: Console) -> None:
    first = finding.first
    branch = f" (first in {first.branch})" if first.branch else ""
    console.print(Text(f"{number}. {finding.sentence}{branch}"))
    if (excerpt := first.excerpt) is not None:
        for label, text in (
            ("before", excerpt.before),
            ("after", excerpt.after),
            ("", " " * excerpt.caret + "^"),
        ):
            console.print(Text(f"   {label:7} {text}"), no_wrap=True, overflow="crop")
    console.print(Padding(Text(first.remedy), (0, 0, 1, 3)))
