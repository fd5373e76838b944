"""What is most worth changing, by what it would save at most.

Seconds count where they lie on the critical path, tokens where a server computed them. The two are not
converted into one another: each is ranked by its share of the program's own seconds or input tokens.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ..history import StepRecord
from .model import Advice
from .words import count, dollars, percent, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..history import BranchRecord, ForkRecord, ToolRecord
    from .graph import Graph
    from .model import Break, HintsEffect, PathPart, Tokens, ToolGroup

MOST = 3
WORTH = 0.03
"""Shares below this are not worth a line."""

_LATE = 1.5
"""A tool that takes so many times its declared duration is late."""

_CACHE_UNIT_TOKENS = 1024
"""Providers cache no shorter prefixes, and some in steps of about this size."""


def advice(
    graph: Graph,
    path: tuple[PathPart, ...],
    tools: tuple[ToolGroup, ...],
    tokens: Tokens,
    breaks: tuple[Break, ...],
    effect: HintsEffect,
) -> tuple[Advice, ...]:
    """Returns at most three pieces of advice, the most useful first."""
    finder = _Finder(graph, path, tokens)
    found = [
        *finder.breaks(breaks),
        *finder.forks(),
        *finder.tools(tools),
        *finder.tools_in_turn(),
        *finder.lost_cache(),
        *finder.own_code(),
    ]
    worth = [one for one in found if one.share >= WORTH] + list(finder.refused(effect))
    return tuple(sorted(worth, key=lambda one: -one.share)[:MOST])


class _Finder:
    def __init__(self, graph: Graph, path: tuple[PathPart, ...], tokens: Tokens) -> None:
        self._graph = graph
        self._path = path
        self._tokens = tokens
        self._on_path = {(part.what, part.id) for part in path}

    def _seconds(self, what: str, why: str, saved: float) -> Advice:
        share = saved / self._graph.now if self._graph.now else 0.0
        return Advice(what, why, saved, None, share)

    def _computed(self, what: str, why: str, saved: int) -> Advice:
        return Advice(what, why, None, saved, saved / max(self._tokens.input, saved, 1))

    def breaks(self, breaks: tuple[Break, ...]) -> Iterator[Advice]:
        for one in breaks:
            times = len(one.steps)
            cost = "" if one.dollars is None else f", about {dollars(one.dollars)}"
            yield self._computed(
                f"Keep the prompt as it was: it changes at {one.where}.",
                f"{one.what[:1].upper()}{one.what[1:]}: {one.tokens // times:,} tokens were computed again "
                f"in {'each of ' if times > 1 else ''}{count(times, 'step')}{cost}. {one.remedy}",
                one.tokens,
            )

    def forks(self) -> Iterator[Advice]:
        for fork in self._graph.forks.values():
            branches = [self._graph.branches[one] for one in self._graph.branches_of[fork.fork]]
            if len(branches) >= 2 and self._is_on_path(fork):
                yield from self._side_by_side(fork, branches)
                yield from self._straggler(fork, branches)

    def _side_by_side(self, fork: ForkRecord, branches: list[BranchRecord]) -> Iterator[Advice]:
        ended = self._graph.ended
        most = _most_at_once([(one.started, ended(one)) for one in branches])
        if most == len(branches):
            return
        took = max(map(ended, branches)) - min(one.started for one in branches)
        longest = max(ended(one) - one.started for one in branches)
        how, do = f"ran at most {most} at a time", "Raise the limit, if the servers can take it."
        if most == 1:
            how, do = "ran one after another", "Use fork.map, or tasks of your own."
        yield self._seconds(
            f"Run the branches of fork {_name(fork)} at the same time.",
            f"Its {len(branches)} branches {how}, in {seconds(took)}; the longest took {seconds(longest)}. "
            f"{do}",
            took - longest,
        )

    def _straggler(self, fork: ForkRecord, branches: list[BranchRecord]) -> Iterator[Advice]:
        failed = any(one.outcome not in (None, "ok") for one in branches)
        if fork.join != "all" or len(branches) < 3 or failed:
            return
        *_, second, last = sorted(map(self._graph.ended, branches))
        slowest = max(branches, key=self._graph.ended)
        yield self._seconds(
            f"Join fork {_name(fork)} without waiting for the slowest of its {len(branches)} branches.",
            f"Branch {slowest.branch} ended {seconds(last - second)} after all others; "
            f"join={len(branches) - 1} would go on without it, if one result less will do.",
            last - second,
        )

    def _is_on_path(self, fork: ForkRecord) -> bool:
        inside = set(self._graph.branches_of[fork.fork])
        return any(
            ("model" if isinstance(one, StepRecord) else "tool", _id(one)) in self._on_path
            for branch in inside
            for one in self._graph.on.get(branch, ())
        )

    def tools(self, tools: tuple[ToolGroup, ...]) -> Iterator[Advice]:
        for tool in tools[:1]:  # the one with most time on the path
            if not tool.on_path:
                continue
            said = ""
            saved = tool.on_path
            if tool.expected is not None:
                said = f"; expected {seconds(tool.expected)}, took {seconds(tool.median)} in the median"
                if tool.median > _LATE * tool.expected:
                    saved = tool.on_path * (1 - tool.expected / tool.median)
            yield self._seconds(
                f"Make tool {tool.name} faster, call it earlier, or keep its results.",
                f"It is {percent(tool.on_path, self._graph.now)} of the critical path, "
                f"in {count(tool.calls, 'call')}{said}.",
                saved,
            )

    def tools_in_turn(self) -> Iterator[Advice]:
        """Tools that one answer asked for, and that ran one after another."""
        calls: defaultdict[str, list[ToolRecord]] = defaultdict(list)
        for tool in self._graph.tools:
            if tool.asked_by is not None and ("tool", tool.call) in self._on_path:
                calls[tool.asked_by].append(tool)
        saved, steps = 0.0, 0
        names: Counter[str] = Counter()
        for asked in calls.values():
            times = [self._graph.ended(one) - one.started for one in asked]
            if len(times) > 1:
                saved += sum(times) - max(times)
                steps += 1
                names.update(one.tool for one in asked)
        if steps:
            which = ", ".join(name for name, _ in names.most_common(3))
            yield self._seconds(
                "Run the tools that one answer asks for at the same time.",
                f"After {count(steps, 'step')} they ran one after another ({which}).",
                saved,
            )

    def lost_cache(self) -> Iterator[Advice]:
        lost, steps = 0, 0
        for step in self._graph.steps:
            if step.input_tokens is None or step.cached_tokens is None or not step.prompt_bytes:
                continue
            if step.divergence is not None or step.superseded or step.extends is None:
                continue
            known = step.input_tokens * (1 - step.new_bytes / step.prompt_bytes)
            missing = int(known - step.cached_tokens)
            if missing >= _CACHE_UNIT_TOKENS:
                lost += missing
                steps += 1
        if lost:
            yield self._computed(
                "Let the server find what it has computed before.",
                f"In {count(steps, 'step')} the prompt only went on, and yet about {lost:,} tokens of it "
                "were computed again: another engine got it, or the cache was full. Route by conversation, "
                "or send hints to a server that uses them.",
                lost,
            )

    def own_code(self) -> Iterator[Advice]:
        gaps = [part for part in self._path if part.what == "own"]
        if not gaps:
            return
        longest = max(gaps, key=lambda part: part.ended - part.started)
        index = self._path.index(longest)
        before = self._path[index - 1].id if index else None
        after = self._path[index + 1].id if index + 1 < len(self._path) else None
        where = f"after {before}" if before else f"before {after}" if after else "throughout"
        took = longest.ended - longest.started
        yield self._seconds(
            f"Look at what your own code does {where}.",
            f"{seconds(took)} pass there with neither a model call nor a tool. If it waits for something, "
            "mark that as a tool; if it computes, nothing else goes on meanwhile.",
            took,
        )

    def refused(self, effect: HintsEffect) -> Iterator[Advice]:
        if effect.rejected:
            first = effect.rejected[0]
            yield Advice(
                f"Correct the hint {first.hint}, which the server does not use.",
                f"In {count(first.count, 'step')}: {first.reason or 'it did not say why'}.",
                None,
                None,
                0.0,
            )


def _most_at_once(spans: list[tuple[float, float]]) -> int:
    running: list[float] = []
    most = 0
    for started, ended in sorted(spans):
        while running and running[0] <= started:
            heapq.heappop(running)
        heapq.heappush(running, ended)
        most = max(most, len(running))
    return most


def _name(fork: ForkRecord) -> str:
    return fork.name or fork.fork


def _id(activity: StepRecord | ToolRecord) -> str:
    return activity.step if isinstance(activity, StepRecord) else activity.call
