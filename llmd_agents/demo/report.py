"""The demo's report for people: a table for each pressure, and a sentence for each program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .arms import ARMS
from .sentences import sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results import Row
    from .scenario import Scenario
    from .trial import Outcome

_COLUMNS = ("seconds", "prompt\ntokens", "from\ncache", "computed\nagain", "join\nstall", "others'\ncalls")


def print_report(rows: Sequence[Row], scenario: Scenario, console: Console) -> None:
    console.print(_preface(rows, scenario))
    for pressure in sorted({row.pressure for row in rows}):
        shown = [row for row in rows if row.pressure == pressure]
        console.print()
        console.print(_table(shown, pressure))
        for row in shown:
            console.print(Text.assemble((f"{row.program}: ", "bold"), sentence(row)))
    console.print()
    console.print(
        "Seconds are modelled: the engines model inference servers and run no model. Computed again: prompt "
        "tokens that some engine had computed before. Join stall: from the first branch's end to the last's. "
        "Others' calls: mean seconds of a call of the coding agents meanwhile.",
        style="dim",
    )


def _preface(rows: Sequence[Row], scenario: Scenario) -> str:
    seeds = len(rows[0].seeds) if rows else 0
    runs = "one run each" if seeds == 1 else f"medians of {seeds} runs"
    return (
        f"Agent programs on {scenario.fleet.engines} inference servers that are busy with coding agents "
        f"({runs}). Each is run four times: with its calls placed in turn (round robin); where most of the "
        "prompt is cached (prefix-aware); by load and cache, and served cached prompts first (strongest, "
        "no hints); and so with the programs' hints of what comes next, what is shared and what is over."
    )


def _table(rows: Sequence[Row], pressure: float) -> Table:
    title = f"Background conversations take {pressure:g} times what the servers can cache"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(row.program, style="bold"))
        for arm, settings in ARMS.items():
            table.add_row(f"  {settings.title}", *_cells(row.median(arm)))
    return table


def _cells(outcome: Outcome) -> list[str]:
    return [
        f"{outcome.completion_s:,.1f}",
        f"{outcome.prompt_tokens:,}",
        f"{outcome.cached_tokens:,}",
        f"{outcome.recomputed_tokens:,}",
        f"{outcome.join_stall_s:,.1f}" if outcome.join_stall_s else "–",
        "–" if outcome.background_step_s is None else f"{outcome.background_step_s:,.1f}",
    ]
