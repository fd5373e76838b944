"""Programs as their spans tell them: steps, tools, forks, and how far prompts were alike.

Of spans that the client made, structure and prompts are read from their attributes. Of others a step is taken
to have waited for whatever had ended when it began, and prompts are alike as far as their messages are.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmd_agents.hints import ROOT_BRANCH, chain
from llmd_agents.hints.frontier import advance

from .coding_sessions import BadTrace
from .otel_spans import Span, spans_of
from .prompt_blocks import BLOCK_SIZE, PromptBlocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_STEPS = frozenset({"chat", "text_completion", "generate_content"})
_TOOL = "execute_tool"
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One model call. Times are seconds since the program's start.

    Attributes:
        parents: steps and forks of the recording that it waited for; all of them began before it.
        blocks: ids of the prompt's full blocks, as of a coding session's turn.
    """

    id: str
    branch: str
    parents: tuple[str, ...]
    kind: str | None
    agent: str | None
    model: str
    started: float
    ended: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RecordedTool:
    tool: str
    branch: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class RecordedFork:
    """A fork; `branches` are those that began, each with its start."""

    id: str
    name: str | None
    branch: str
    width: int
    parents: tuple[str, ...]
    started: float
    ended: float
    branches: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class RecordedProgram:
    """One program.

    Attributes:
        source: the same for programs that may have prompts in common.
        delay_s: seconds from the start of the recording to the program's.
        steps: in the order in which they began; so are tools and forks.
    """

    id: str
    name: str
    source: str
    delay_s: float
    steps: tuple[RecordedStep, ...]
    tools: tuple[RecordedTool, ...]
    forks: tuple[RecordedFork, ...]
    block_size: int = BLOCK_SIZE

    def turns(self) -> list[RecordedStep]:
        return list(self.steps)


def programs_of(documents: Iterable[Any], path: Path) -> list[RecordedProgram]:
    """Returns the programs among spans, in the order in which they began.

    Raises:
        BadTrace: if there is no span of a model call.
    """
    found: defaultdict[str, list[Span]] = defaultdict(list)
    for document in documents:
        for span in spans_of(document):
            program = span.attributes.get("llmd.program.id")
            found[f"program {program}" if program else f"trace {span.trace}"].append(span)
    programs = [_Program(spans, key) for key, spans in found.items() if any(_is_step(span) for span in spans)]
    if not programs:
        raise BadTrace(
            f"{path}: holds neither a coding-agent session nor a span of a model call (gen_ai.operation.name)"
        )
    programs.sort(key=lambda one: one.started)
    prompts = PromptBlocks()
    return [one.read(str(path), programs[0].started, prompts) for one in programs]


def _is_step(span: Span) -> bool:
    return span.attributes.get("gen_ai.operation.name") in _STEPS


class _Program:
    """The spans of one program on their way to be one."""

    def __init__(self, spans: list[Span], key: str) -> None:
        spans.sort(key=lambda span: (span.started, span.ended))
        self._key = key.split(" ", 1)[1]
        self._steps = [span for span in spans if _is_step(span)]
        self._tools = [span for span in spans if span.attributes.get("gen_ai.operation.name") == _TOOL]
        self._branches = [span for span in spans if "llmd.fork.id" in span.attributes and not _is_step(span)]
        self._names = [span.attributes.get("gen_ai.workflow.name") for span in spans]
        self._ours = all("llmd.step.id" in span.attributes for span in self._steps)
        self.started = spans[0].started

    def read(self, source: str, began: float, prompts: PromptBlocks) -> RecordedProgram:
        steps = self._read_steps(prompts)
        forks = self._read_forks()
        if not self._ours:
            steps, forks = _side_by_side(steps)
        known = {ROOT_BRANCH, *(branch for fork in forks for branch, _ in fork.branches)}
        steps = [one if one.branch in known else replace(one, branch=ROOT_BRANCH) for one in steps]
        steps, forks = _without_circles(steps, forks)
        tools = [
            RecordedTool(
                str(span.attributes.get("gen_ai.tool.name") or "tool"),
                branch if (branch := _branch(span)) in known else ROOT_BRANCH,
                span.started - self.started,
                span.ended - self.started,
            )
            for span in self._tools
        ]
        name = next((str(one) for one in self._names if one), "recorded")
        delay = self.started - began
        return RecordedProgram(self._key, name, source, delay, tuple(steps), tuple(tools), tuple(forks))

    def _read_steps(self, prompts: PromptBlocks) -> list[RecordedStep]:
        ours = self._ours
        inferred = _inferred_parents(self._steps) if not ours else {}
        steps = []
        for span in self._steps:
            given = span.attributes
            tokens, blocks = _prompt(given, prompts, span)
            steps.append(
                RecordedStep(
                    str(given["llmd.step.id"]) if ours else span.id,
                    _branch(span),
                    _texts(given.get("llmd.parents")) if ours else inferred[span.id],
                    _text(given.get("llmd.step.kind")),
                    _text(given.get("gen_ai.agent.name")),
                    _text(given.get("gen_ai.request.model")) or "any",
                    span.started - self.started,
                    span.ended - self.started,
                    tokens,
                    _output_tokens(given),
                    blocks,
                )
            )
        return steps

    def _read_forks(self) -> list[RecordedFork]:
        """Returns the forks whose branches can be reached from the program's first."""
        by_fork: defaultdict[str, list[Span]] = defaultdict(list)
        for span in self._branches:
            by_fork[str(span.attributes["llmd.fork.id"])].append(span)
        waiting: defaultdict[str, list[str]] = defaultdict(list)
        for fork, spans in by_fork.items():
            waiting[str(spans[0].attributes.get("llmd.fork.branch") or ROOT_BRANCH)].append(fork)
        found: list[RecordedFork] = []
        reached, seen = [ROOT_BRANCH], {ROOT_BRANCH}
        while reached:
            on = reached.pop()
            for fork in waiting.pop(on, []):
                spans = [span for span in by_fork[fork] if _branch(span) not in seen]
                seen.update(_branch(span) for span in spans)
                reached += [_branch(span) for span in spans]
                if spans:
                    found.append(self._fork(fork, on, spans))
        return found

    def _fork(self, fork: str, on: str, spans: list[Span]) -> RecordedFork:
        given = spans[0].attributes
        width = given.get("llmd.fork.width")
        return RecordedFork(
            fork,
            _text(given.get("llmd.fork.name")),
            on,
            max(width if isinstance(width, int) else 0, len(spans)),
            _texts(given.get("llmd.parents")),
            min(span.started for span in spans) - self.started,
            max(span.ended for span in spans) - self.started,
            tuple((_branch(span), span.started - self.started) for span in spans),
        )


def _without_circles(
    steps: list[RecordedStep], forks: list[RecordedFork]
) -> tuple[list[RecordedStep], list[RecordedFork]]:
    """Returns steps and forks in the order in which they began, with only those parents of which all began
    before them, so that none ever waits for itself."""
    of = {branch: fork for fork in forks for branch, _ in fork.branches}
    around: dict[str, tuple[RecordedFork, ...]] = {}

    def outside(branch: str) -> tuple[RecordedFork, ...]:
        """Returns the forks that a branch is within, the outermost first."""
        if branch not in around:
            fork = of.get(branch)
            around[branch] = (*outside(fork.branch), fork) if fork is not None else ()
        return around[branch]

    def begins(started: float, branch: str) -> float:
        return max(started, *(fork.started for fork in outside(branch)), 0.0)

    # Forks come before what begins at the same time, outer ones before inner ones: they are declared first.
    entries: list[tuple[float, int, int, RecordedStep | RecordedFork]] = [
        *((begins(one.started, one.branch), 0, len(outside(one.branch)), one) for one in forks),
        *((begins(one.started, one.branch), 1, 0, one) for one in steps),
    ]
    entries.sort(key=lambda entry: entry[:3])
    last: dict[str, int] = {}
    for index, (_, _, _, one) in enumerate(entries):
        last[one.id] = index
        for fork in outside(one.branch):
            last[fork.id] = index
    found_steps: list[RecordedStep] = []
    found_forks: list[RecordedFork] = []
    for index, (started, _, _, one) in enumerate(entries):
        own = {fork.id for fork in outside(one.branch)}
        parents = tuple(name for name in one.parents if last.get(name, index) < index and name not in own)
        if isinstance(one, RecordedStep):
            found_steps.append(replace(one, parents=parents, started=started, ended=max(one.ended, started)))
        else:
            found_forks.append(replace(one, parents=parents, started=started, ended=max(one.ended, started)))
    return found_steps, found_forks


def _inferred_parents(steps: Sequence[Span]) -> dict[str, tuple[str, ...]]:
    """Returns what each step waited for, if that was all that had ended: the rule of `hints.frontier`."""
    parents: dict[str, tuple[str, ...]] = {}
    frontier: tuple[str, ...] = ()
    running: list[tuple[float, str]] = []
    for step in steps:
        while running and running[0][0] <= step.started:
            _, done = heapq.heappop(running)
            frontier = advance(frontier, done, parents[done])
        parents[step.id] = frontier
        heapq.heappush(running, (step.ended, step.id))
    return parents


def _side_by_side(steps: list[RecordedStep]) -> tuple[list[RecordedStep], list[RecordedFork]]:
    """Returns the steps with forks where several waited for the same, ran side by side, and were waited for
    together: as an application would have declared them."""
    alike: defaultdict[tuple[str, ...], list[RecordedStep]] = defaultdict(list)
    for step in steps:
        alike[step.parents].append(step)
    forks: list[RecordedFork] = []
    fork_of: dict[str, tuple[str, str]] = {}
    for parents, group in alike.items():
        names = {step.id for step in group}
        together = all(names <= set(step.parents) for step in steps if names & set(step.parents))
        if len(group) < 2 or not together or group[-1].started >= min(step.ended for step in group):
            continue
        fork = f"f{len(forks) + 1}"
        branches = tuple((f"{fork}.{index}", step.started) for index, step in enumerate(group))
        fork_of |= {step.id: (fork, name) for step, (name, _) in zip(group, branches, strict=True)}
        ended = max(step.ended for step in group)
        forks.append(
            RecordedFork(fork, None, ROOT_BRANCH, len(group), parents, group[0].started, ended, branches)
        )

    def joined(parents: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fork_of[name][0] if name in fork_of else name for name in parents))

    return (
        [
            replace(
                one,
                branch=fork_of[one.id][1] if one.id in fork_of else one.branch,
                parents=joined(one.parents),
            )
            for one in steps
        ],
        [replace(fork, parents=joined(fork.parents)) for fork in forks],
    )


def _prompt(given: Any, prompts: PromptBlocks, span: Span) -> tuple[int, tuple[int, ...]]:
    """Returns a prompt's length in tokens and the ids of its full blocks."""
    counted = given.get("gen_ai.usage.input_tokens")
    digests, sizes = _texts(given.get("llmd.context.digests")), given.get("llmd.context.sizes")
    extends = _text(given.get("llmd.context.extends"))
    links: list[tuple[str, int]]
    if digests and isinstance(sizes, (list, tuple)) and len(sizes) == len(digests):
        links = [
            (digest, size if isinstance(size, int) else 1)
            for digest, size in zip(digests, sizes, strict=True)
        ]
    elif extends is not None:
        links = []
    else:
        links = _links_of_messages(given) or [(f"{span.trace}/{span.id}", 1)]
    size = given.get("llmd.prompt.bytes")
    total = size if isinstance(size, int) else sum(size for _, size in links)
    tokens = counted if isinstance(counted, int) and counted > 0 else math.ceil(total / _BYTES_PER_TOKEN)
    return prompts.read(extends, links, max(tokens, 1))


def _links_of_messages(given: Any) -> list[tuple[str, int]]:
    messages = given.get("gen_ai.input.messages")
    try:
        if isinstance(messages, str):
            messages = json.loads(messages)
        links = chain({"model": given.get("gen_ai.request.model"), "messages": messages})
    except (ValueError, TypeError, RecursionError):
        return []
    return [(link.digest.hex(), link.size) for link in links if link.size]


def _output_tokens(given: Any) -> int:
    counted = given.get("gen_ai.usage.output_tokens")
    if isinstance(counted, int) and counted >= 0:
        return counted
    for name in ("gen_ai.output.text", "gen_ai.output.messages"):
        if isinstance(text := given.get(name), str):
            return max(len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN, 1)
    return 1


def _branch(span: Span) -> str:
    return _text(span.attributes.get("llmd.branch")) or ROOT_BRANCH


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, (list, tuple)) else ()
