"""The demonstration's report for people: a table, and a sentence for each program."""

from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .demo_outcome import Outcome

STOCK: Final = "stock"
CACHED_FIRST: Final = "cached-first"
HINTED: Final = "hinted"
TITLES: Final = {STOCK: "vLLM as it is", CACHED_FIRST: "cached first", HINTED: "with hints"}
SOURCES: Final = ("device", "host", "disk")
ALIKE: Final = 0.02
"""Differences below this share are called none."""

_COLUMNS: Final = ("s", "prompt", *SOURCES, "computed", "again", "told")

Results = Mapping[str, Mapping[str, Outcome]]
"""By program, then by arm."""


def print_report(results: Results, console: Console) -> None:
    table = Table(
        title="Real vLLM engines, their own counters",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for program, by_arm in results.items():
        table.add_row(Text(program, style="bold"))
        for arm, outcome in by_arm.items():
            table.add_row(f"  {TITLES[arm]}", *_cells(outcome))
    console.print(table)
    for program, by_arm in results.items():
        console.print(Text.assemble((f"{program}: ", "bold"), sentence(by_arm)))
    console.print()
    console.print(
        "Prompt: tokens, by the engines' own counters, of which so many came from the caches on device, "
        "host and disk, and the rest was computed; what brings context ahead of its use is included. "
        "Again: prompt tokens of a program's calls that an earlier one had had computed. Told: directives "
        "applied. Cached first: what is cached already is admitted first, which takes no hints. "
        "The model is tiny and random, and runs on this machine's CPU: its seconds say nothing "
        "about real latencies, and depend on what else runs here. The token counts are what to look at.",
        style="dim",
    )


def sentence(by_arm: Mapping[str, Outcome]) -> str:
    """Returns how one program fared with hints, whichever way it went, against the best without any."""
    hinted = by_arm[HINTED]
    name, best = min(
        ((name, outcome) for name, outcome in by_arm.items() if name != HINTED),
        key=lambda one: one[1].computed,
    )
    return f"{_compared(TITLES[name], best, hinted)} {_again(best, hinted)} {_did(hinted)}"


def _compared(name: str, best: Outcome, hinted: Outcome) -> str:
    difference = hinted.computed - best.computed
    if abs(difference) <= ALIKE * max(best.computed, 1):
        return f"with hints the engines computed as many prompt tokens as {name}, {hinted.computed:,}."
    more = "more" if difference > 0 else "fewer"
    return (
        f"with hints the engines computed {abs(difference):,} prompt tokens {more} than {name} "
        f"({hinted.computed:,} instead of {best.computed:,})."
    )


def _again(best: Outcome, hinted: Outcome) -> str:
    if not best.computed_again and not hinted.computed_again:
        return "Nothing had to be computed again either way."
    return f"Computed again: {hinted.computed_again:,} instead of {best.computed_again:,}."


def _did(hinted: Outcome) -> str:
    said = {
        "retain": "when context is needed next",
        "release": "that context is over",
        "demote": "to move context to the host",
        "prefetch": "to bring context to the device",
        "warm": "to compute context ahead",
    }
    parts = [f"{what} {_times(count)}" for kind, what in said.items() if (count := hinted.applied(kind))]
    return f"Engines were told {', '.join(parts)}." if parts else "Nothing followed from its hints."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _cells(outcome: Outcome) -> list[str]:
    counters = outcome.counters
    sources = [counters.cached_by_source.get(source, 0) for source in SOURCES]
    counts = [counters.prompt_tokens, *sources, outcome.computed, outcome.computed_again]
    return [f"{outcome.completion_s:,.1f}", *(f"{count:,}" for count in counts), f"{outcome.all_applied:,}"]
