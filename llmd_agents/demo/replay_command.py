"""What `llmd-agents replay` does: read the recordings, start a fleet if none is given, play, report."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from llmd_agents.bench import BadTrace, read_recordings

from .fleet import FleetError, local_fleet
from .replay import ReplayOptions, ReplayReport, replay

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from llmd_agents.bench import Recording


class ReplayFailed(RuntimeError):
    """The replay could not be run; the message is one line."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A replay's report, ready to be shown."""

    report: ReplayReport

    def as_json(self) -> dict[str, Any]:
        """Returns the documented JSON form. Token counts are the engines' own where these could be read."""
        report = self.report
        engines = report.engines
        prompt = sum(engine.prompt_tokens for engine in engines)
        cached = sum(engine.cached_tokens for engine in engines)
        return {
            "requests": report.requests,
            "failed": report.failed,
            "prompt_tokens": prompt if engines else report.prompt_tokens,
            "cached_tokens": cached if engines else report.cached_tokens,
            "steps": report.steps,
            "edges": report.edges,
            "branches": report.branches,
            "engines": [asdict(engine) for engine in engines],
        }

    def warning(self) -> str | None:
        """Returns what went wrong, if anything did."""
        if self.report.failed:
            return f"{self.report.failed} calls failed; the first: {self.report.first_error}"
        return self.report.disagreement() if self.report.engines else None

    def print(self) -> None:
        values = self.as_json()
        share = values["cached_tokens"] / values["prompt_tokens"] if values["prompt_tokens"] else 0.0
        table = Table(title="Replay", title_justify="left")
        for column in ("", "requests", "prompt tokens", "cached tokens"):
            table.add_column(column, justify="right" if column else "left")
        for index, engine in enumerate(values["engines"]):
            table.add_row(f"engine {index}", *(f"{count:,}" for count in engine.values()))
        totals = (values["requests"], values["prompt_tokens"], values["cached_tokens"])
        table.add_row("all", *(f"{count:,}" for count in totals))
        console = Console()
        console.print(table)
        console.print(
            f"{share:.1%} of the prompt tokens were cached; {values['steps']} steps, "
            f"{values['edges']} edges, {values['branches']} branches; {values['failed']} failed."
        )


def run_replay(
    traces: Sequence[Path],
    *,
    engines: int,
    base_url: str | None,
    speed: float,
    hints: bool,
    cache_tokens: int | None,
    max_gap_s: float,
) -> ReplayResult:
    """Replays recordings and returns what came of it.

    Args:
        base_url: of a running router; None starts `engines` embedded engines and a router.
        cache_tokens: cache of each engine that is started; None is large enough for everything.

    Raises:
        ReplayFailed: if a trace is none, or the servers do not start or answer.
    """
    try:
        recordings = [one for path in traces for one in read_recordings(path)]
    except BadTrace as error:
        raise ReplayFailed(str(error)) from None
    options = ReplayOptions(speed=speed, hints=hints, max_gap_s=max_gap_s)
    try:
        with contextlib.ExitStack() as stack:
            if base_url is None:
                fleet = stack.enter_context(
                    local_fleet(engines, _engine_options(recordings, speed, cache_tokens))
                )
                router, urls = fleet.router, fleet.engines
            else:
                router = base_url.rstrip("/").removesuffix("/v1")
                urls = _engines_behind(router)
            with _progress(recordings) as advance:
                return ReplayResult(asyncio.run(replay(recordings, router, urls, options, advance)))
    except FleetError as error:
        raise ReplayFailed(str(error)) from None
    except httpx.HTTPError as error:
        raise ReplayFailed(f"a server does not answer: {error}") from None


def _engine_options(recordings: Sequence[Recording], speed: float, cache_tokens: int | None) -> list[str]:
    turns = [turn for one in recordings for turn in one.turns()]
    block_size = recordings[0].block_size
    if any(one.block_size != block_size for one in recordings):
        raise ReplayFailed("sessions and spans cannot be replayed together: all must have one block size")
    longest = max(turn.input_tokens + max(turn.output_tokens, 1) for turn in turns)
    if cache_tokens is None:
        blocks = sum(len({b for turn in one.turns() for b in turn.blocks}) for one in recordings)
        blocks += sum(turn.output_tokens // block_size + 3 for turn in turns)
        blocks += math.ceil(longest / block_size)
    else:
        blocks = cache_tokens // block_size
    return [
        *("--block-size", str(block_size)),
        *("--num-blocks", str(blocks + 1)),
        *("--max-model-len", str(longest)),
        *("--time-scale", str(speed)),
    ]


def _engines_behind(router: str) -> tuple[str, ...]:
    """Returns the URLs of a running router's engines; none if it does not tell."""
    response = httpx.get(f"{router}/v1/agent/engines", timeout=10.0)
    if response.status_code != 200:
        return ()
    return tuple(engine["url"] for engine in response.json()["engines"])


@contextlib.contextmanager
def _progress(recordings: Sequence[Recording]) -> Iterator[Any]:
    total = sum(len(one.turns()) for one in recordings)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda: bar.advance(task)
