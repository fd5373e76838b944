"""The diagnosis for people."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .finding import Diagnosis, Verdict

_STYLE: Final = {
    Verdict.HONOURED: "green",
    Verdict.ACCEPTED: "cyan",
    Verdict.IGNORED: "yellow",
    Verdict.REFUSED: "red",
    Verdict.ABSENT: "dim",
    Verdict.UNKNOWN: "magenta",
}


def print_diagnosis(found: Diagnosis, advice: list[str], console: Console) -> None:
    console.print(Text(found.base_url, style="bold"))
    for fact in found.facts:
        console.print(Text(f"  {fact}"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("tried", max_width=32)
    table.add_column("verdict", no_wrap=True)
    table.add_column("seen", overflow="fold")
    group = ""
    for one in found.findings:
        if one.group != group:
            group = one.group
            table.add_row(Text(group, style="bold"))
        table.add_row(Text(f"  {one.title}"), Text(one.verdict, style=_STYLE[one.verdict]), Text(one.detail))
    console.print(table)
    for line in advice:
        console.print(Text.assemble(("→ ", "bold"), line))
    console.print()
    tokens = f"{found.prompt_tokens:,} prompt and {found.output_tokens:,} output tokens"
    console.print(Text(f"{found.calls} model calls; {tokens}, as far as the server told.", style="dim"))
