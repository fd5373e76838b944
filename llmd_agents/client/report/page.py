"""A report as one HTML page that loads nothing: style and script are within, all names are escaped."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from .drawing import drawing
from .timeline import Timeline
from .words import count, dollars, percent, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import Group, Refusal
    from .report import Report

STEPS_MAX = 5000
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(report: Report) -> str:
    name = escape(report.name or report.program)
    sections = [
        _section("What to change", _advice(report)) if report.advice else "",
        _section("Timeline", _timeline(report)),
        _section("Graph", f'<div class="scroll">{drawing(report)}</div>') if report.steps else "",
        _groups("Agents", report.by_agent),
        _groups("Kinds of steps", report.by_kind),
        _groups("Models", report.by_model) if len(report.by_model) > 1 else "",
        _groups("Branches", report.by_branch) if len(report.by_branch) > 1 else "",
        _tools(report),
        _breaks(report),
        _section("Hints", _hints(report)),
        _steps(report),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{name}: program report</title><style>{_file('page.css')}</style></head><body>"
        f"{_header(report, name)}<main>{''.join(sections)}</main>"
        f"<script>{_file('page.js')}</script></body></html>\n"
    )


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _header(report: Report, name: str) -> str:
    time, tokens = report.time, report.tokens
    tiles = [
        (seconds(report.seconds), "from start to end" if report.outcome else "so far"),
        (f"{len(report.steps):,}", f"steps, {count(len(report.tools), 'tool call')}"),
        (f"{time.parallelism:.1f}", "at a time, on average"),
        (
            percent(tokens.cached, tokens.input) or "–",
            f"of {tokens.input:,} input tokens cached",
        ),
    ]
    if tokens.dollars is not None and tokens.dollars_saved is not None:
        tiles.append((dollars(tokens.dollars), f"for input; the cache saved {dollars(tokens.dollars_saved)}"))
    shown = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in tiles)
    parts = [("model", time.model, "model"), ("tool", time.tool, "tools"), ("own", time.own, "own code")]
    bar = "".join(
        f'<i class="{kind}" style="flex-grow:{value:.6f}"></i>' for kind, value, _ in parts if value > 0
    )
    legend = "".join(
        f'<li><i class="{kind}"></i>{what} <b>{seconds(value)}</b> {percent(value, report.seconds)}</li>'
        for kind, value, what in parts
    )
    began = datetime.fromtimestamp(min(max(report.started_at, 0), 4e9), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    outcome = report.outcome or "running"
    missing = ""
    if report.not_kept:
        missing = f"<p>{count(report.not_kept, 'record')} not kept: there were too many.</p>"
    return (
        f'<header><h1>{name} <span class="outcome {escape(outcome)}">{escape(outcome)}</span></h1>'
        f"<p><code>{escape(report.program)}</code> began {began}</p>{missing}"
        f'<div class="tiles">{shown}</div><div class="split" aria-hidden="true">{bar}</div>'
        f'<ul class="legend" aria-label="Critical path">{legend}</ul></header>'
    )


def _advice(report: Report) -> str:
    items = []
    for one in report.advice:
        saved = ""
        if one.seconds is not None:
            saved = f"up to {seconds(one.seconds)}"
        elif one.tokens is not None:
            saved = f"{one.tokens:,} tokens"
        tag = f'<span class="saved">{saved}</span>' if saved else ""
        items.append(f"<li><b>{escape(one.what)}</b> {tag}<p>{escape(one.why)}</p></li>")
    return f'<ol class="advice">{"".join(items)}</ol>'


def _timeline(report: Report) -> str:
    return (
        '<p class="key"><span><i class="model"></i>model call</span><span><i class="tool"></i>tool</span>'
        '<span><i class="own"></i>own code</span><span>full colour: on the critical path</span>'
        '<label>zoom <input id="zoom" type="range" min="0" max="6" step="0.1" value="0"></label></p>'
        f'<div class="scroll timeline" tabindex="0" role="group" aria-label="Timeline">'
        f'<div class="wide">{Timeline(report).html()}</div></div>'
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], ids: Iterable[str] | None = None) -> str:
    """Returns a table; the first column is text, the others are numbers. `rows` are escaped here."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = []
    names = iter(ids) if ids is not None else None
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        anchor = f' id="{escape(next(names))}"' if names is not None else ""
        body.append(f'<tr{anchor}><th scope="row">{escape(first)}</th>{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _groups(title: str, groups: tuple[Group, ...]) -> str:
    if not any(row.name is not None for row in groups):
        return ""
    columns = ("", "steps", "time", "on critical path", "input tokens", "cached", "output tokens")
    return _section(
        title,
        _table(
            columns,
            (
                (
                    "none declared" if row.name is None else row.name,
                    f"{row.steps:,}",
                    seconds(row.seconds),
                    seconds(row.on_path),
                    f"{row.input_tokens:,}",
                    percent(row.cached_tokens, row.input_tokens),
                    f"{row.output_tokens:,}",
                )
                for row in groups
            ),
        ),
    )


def _tools(report: Report) -> str:
    if not report.by_tool:
        return ""
    rows = (
        (
            row.name,
            f"{row.calls:,}",
            f"{row.errors:,}",
            seconds(row.seconds),
            seconds(row.on_path),
            seconds(row.median),
            "" if row.expected is None else seconds(row.expected),
        )
        for row in report.by_tool
    )
    columns = ("", "calls", "errors", "time", "on critical path", "median", "expected")
    return _section("Tools", _table(columns, rows))


def _breaks(report: Report) -> str:
    if not report.breaks:
        return ""
    rows = (
        (
            f"{row.where}: {row.what}",
            f"{len(row.steps):,}",
            f"{row.tokens:,}",
            "" if row.dollars is None else dollars(row.dollars),
        )
        for row in report.breaks
    )
    return _section("Prompts that changed", _table(("", "steps", "tokens computed again", "cost"), rows))


def _hints(report: Report) -> str:
    hints = report.hints
    if not hints.answered:
        return "<p>No server said what it did with them.</p>"
    lines = [f"The server answered them in {hints.answered:,} of {count(len(report.steps), 'step')}."]
    if hints.accepted:
        lines.append("Applied: " + ", ".join(f"{name} {times:,}" for name, times in hints.accepted) + ".")
    lines += _refusals("Clipped", hints.clipped)
    lines += _refusals("Rejected", hints.rejected)
    if hints.resyncs:
        lines.append(f"Asked for the whole context again: {hints.resyncs:,} times.")
    if hints.events_dropped:
        lines.append(f"Events that were not sent: {hints.events_dropped:,}.")
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _refusals(what: str, refusals: Iterable[Refusal]) -> list[str]:
    return [
        f"{what}: {one.hint} in {count(one.count, 'step')}{f' ({one.reason})' if one.reason else ''}."
        for one in refusals
    ]


def _steps(report: Report) -> str:
    shown = report.steps[:STEPS_MAX]
    rows = (
        (
            step.id,
            step.branch,
            step.agent or "",
            step.kind or "",
            step.model or "",
            seconds(step.started),
            seconds(step.ended - step.started),
            "" if step.input_tokens is None else f"{step.input_tokens:,}",
            "" if step.cached_tokens is None else percent(step.cached_tokens, step.input_tokens or 0),
            "" if step.output_tokens is None else f"{step.output_tokens:,}",
            step.outcome or "running",
        )
        for step in shown
    )
    columns = (
        *("step", "branch", "agent", "kind", "model", "began", "took"),
        *("input", "cached", "output", "outcome"),
    )
    table = _table(columns, rows, (step.id for step in shown))
    left_out = len(report.steps) - len(shown)
    more = f"<p>{count(left_out, 'step')} more did not fit.</p>" if left_out else ""
    return f"<section><details><summary><h2>All steps</h2></summary>{table}{more}</details></section>"
