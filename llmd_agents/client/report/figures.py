"""A report's sums: time, tokens, tables, what became of the hints."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING

from .model import Break, Group, HintsEffect, Refusal, TimeSpent, Tokens, ToolGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmd_agents.linter import Divergence, Prices

    from ..history import StepRecord, ToolRecord
    from .graph import Graph
    from .model import PathPart, What

REASONS_MAX = 20
"""Most hints and reasons that are told apart: a server may make up any number of them."""

_TEXT_MAX = 200


def time_spent(graph: Graph, path: tuple[PathPart, ...]) -> TimeSpent:
    def on_path(what: What) -> float:
        return sum((part.ended - part.started for part in path if part.what == what), 0.0)

    model = sum((graph.ended(one) - one.started for one in graph.steps), 0.0)
    tool = sum((graph.ended(one) - one.started for one in graph.tools), 0.0)
    parallelism = (model + tool) / graph.now if graph.now > 1e-6 else 0.0
    return TimeSpent(on_path("model"), on_path("tool"), on_path("own"), model, tool, parallelism)


def tokens(graph: Graph, prices: Prices) -> Tokens:
    counted = [step for step in graph.steps if step.input_tokens is not None]
    spent = saved = 0.0
    priced = False
    for step in counted:
        price = prices.of(step.model or "")
        if price is not None:
            priced = True
            cached = step.cached_tokens or 0
            spent += ((step.input_tokens or 0) - cached) * price.input / 1e6 + cached * price.cached / 1e6
            saved += price.of_recomputing(cached)
    return Tokens(
        sum(step.input_tokens or 0 for step in counted),
        sum(step.cached_tokens or 0 for step in counted),
        sum(step.output_tokens or 0 for step in counted),
        len(counted),
        spent if priced else None,
        saved if priced else None,
    )


def groups(
    graph: Graph, path: tuple[PathPart, ...], name_of: Callable[[StepRecord], str | None]
) -> tuple[Group, ...]:
    """Returns the steps grouped by a name, those with most time first."""
    on_path = {part.id: part.ended - part.started for part in path if part.what == "model"}
    found: defaultdict[str | None, list[StepRecord]] = defaultdict(list)
    for step in graph.steps:
        found[name_of(step)].append(step)
    rows = [
        Group(
            name,
            len(steps),
            sum(graph.ended(step) - step.started for step in steps),
            sum(on_path.get(step.step, 0.0) for step in steps),
            sum(step.input_tokens or 0 for step in steps),
            sum(step.cached_tokens or 0 for step in steps),
            sum(step.output_tokens or 0 for step in steps),
        )
        for name, steps in found.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.on_path, -row.seconds, row.name or "")))


def tool_groups(graph: Graph, path: tuple[PathPart, ...]) -> tuple[ToolGroup, ...]:
    on_path = {part.id: part.ended - part.started for part in path if part.what == "tool"}
    by_name: defaultdict[str, list[ToolRecord]] = defaultdict(list)
    for tool in graph.tools:
        by_name[tool.tool].append(tool)
    rows = []
    for name, calls in by_name.items():
        times = [graph.ended(tool) - tool.started for tool in calls]
        expected = [tool.expected for tool in calls if tool.expected is not None]
        rows.append(
            ToolGroup(
                name,
                len(calls),
                sum(tool.outcome == "error" for tool in calls),
                sum(times),
                sum(on_path.get(tool.call, 0.0) for tool in calls),
                median(times),
                median(expected) if expected else None,
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.on_path, -row.seconds, row.name)))


def hints_effect(graph: Graph, events_dropped: int) -> HintsEffect:
    accepted: Counter[str] = Counter()
    clipped: Counter[tuple[str, str]] = Counter()
    rejected: Counter[tuple[str, str]] = Counter()
    answered = resyncs = 0
    for step in graph.steps:
        if step.ack is not None:
            answered += 1
            resyncs += step.ack.resync
            accepted.update(name[:_TEXT_MAX] for name in step.ack.accepted)
            clipped.update((one.hint[:_TEXT_MAX], one.reason[:_TEXT_MAX]) for one in step.ack.clipped)
            rejected.update((one.hint[:_TEXT_MAX], one.reason[:_TEXT_MAX]) for one in step.ack.rejected)
    return HintsEffect(
        answered,
        tuple(accepted.most_common(REASONS_MAX)),
        _refusals(clipped),
        _refusals(rejected),
        resyncs,
        events_dropped,
    )


def _refusals(found: Counter[tuple[str, str]]) -> tuple[Refusal, ...]:
    return tuple(Refusal(hint, reason, times) for (hint, reason), times in found.most_common(REASONS_MAX))


def breaks(graph: Graph, prices: Prices) -> tuple[Break, ...]:
    """Returns the causes for which prompts broke, those that cost most tokens first."""
    found: defaultdict[str, list[tuple[StepRecord, Divergence]]] = defaultdict(list)
    for step in graph.steps:
        if step.divergence is not None:
            found[step.divergence.key].append((step, step.divergence))
    rows = []
    for hits in found.values():
        first = hits[0][1]
        costs = [prices.of_recomputing(hit.model, hit.lost_tokens) for _, hit in hits]
        known = [cost for cost in costs if cost is not None]
        rows.append(
            Break(
                str(first.cause),
                first.where,
                first.what,
                first.remedy,
                tuple(step.step for step, _ in hits),
                sum(hit.lost_tokens for _, hit in hits),
                sum(known) if known else None,
            )
        )
    return tuple(sorted(rows, key=lambda row: -row.tokens))
