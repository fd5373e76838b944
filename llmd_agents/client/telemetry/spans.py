"""One program's spans: program, branches and forks as parents and children, joins as links."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.context import get_current
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span, set_span_in_context

from llmd_agents import __version__

from ..frame import current_frame
from ..history import RECORDS_MAX, StepRecord
from .attributes import (
    agent_attributes,
    branch_attributes,
    operation,
    program_attributes,
    step_attributes,
    tool_attributes,
)
from .background import background
from .current import Current, make_current
from .tips import Tips

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanContext, TracerProvider

    from ..history import BranchRecord, ForkRecord, History, ToolRecord

SPAN_LINKS_MAX = 128

AGENTS_MAX = 64
"""Most agents' spans that are open at once on one branch."""


@dataclass(slots=True, eq=False)
class _Agent:
    """The span over consecutive steps of one agent in one place; it ends when the last of them did."""

    name: str
    span: Span
    ended: float
    running: int = 0
    left: bool = False


@dataclass(slots=True, eq=False)
class _OpenStep:
    """A step without its span yet: that is made when all is known of it.

    Attributes:
        parent: the context that the span will be a child of.
        joins: steps of other branches that it waited for.
    """

    parent: Context
    agent: _Agent | None
    joins: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _OpenTool:
    current: Current
    agent: _Agent | None


class ProgramSpans:
    """Makes the spans of one program. Methods are called in the task or thread in which things happen."""

    def __init__(self, provider: TracerProvider, history: History) -> None:
        self._tips = Tips()
        self._tracer = provider.get_tracer("llmd_agents", __version__)
        self._history = history
        self._zero = int(history.started_at * 1e9)
        self._program: Current | None = None
        # By branch, and by the id of the span that the agent's is a child of.
        self._agents: defaultdict[str, dict[int, _Agent]] = defaultdict(dict)
        self._open: dict[str, StepRecord] = {}
        self._lock = threading.RLock()
        # Written by the background only.
        self._step_spans: dict[str, SpanContext] = {}

    def start_program(self) -> None:
        """Makes the program's span the current one, if it was declared; others are their steps only."""
        frame = current_frame()
        if frame is None or frame.branch.run.history is not self._history:
            return
        name = self._history.name
        span = self._tracer.start_span(
            f"invoke_workflow {name}" if name else "invoke_workflow",
            attributes=program_attributes(self._history),
            start_time=self._zero,
        )
        self._program = make_current(span)

    def end_program(self) -> None:
        history = self._history
        for step in list(self._open.values()):
            self.end_step(step)
        for branch in list(self._agents):
            self._leave_agents(branch)
        if self._program is not None:
            self._program.leave()
            self._end(self._program.span, history.ended, history.outcome)
        background.flush()

    def declare_fork(self, fork: ForkRecord) -> None:
        with self._lock:
            self._tips.add_fork(fork)

    def start_branch(self, branch: BranchRecord) -> None:
        span = self._tracer.start_span(
            f"branch {branch.branch}",
            context=self._parent(),
            attributes=branch_attributes(self._history, branch, self._tips.forks.get(branch.fork or "")),
            start_time=self._at(branch.started),
        )
        branch.span = make_current(span)

    def end_branch(self, branch: BranchRecord) -> None:
        self._leave_agents(branch.branch)
        if isinstance(branch.span, Current):
            branch.span.leave()
            self._end(branch.span.span, branch.ended, branch.outcome)
            branch.span = None

    def start_step(self, step: StepRecord) -> None:
        parent = self._parent()
        with self._lock:
            joins = self._joins(step)
            self._tips.add_step(step)
            agent = self._agent_of(step, parent)
            if agent is not None:
                agent.running += 1
                parent = set_span_in_context(agent.span, parent)
            step.span = _OpenStep(parent, agent, joins)
            self._open[step.step] = step

    def end_step(self, step: StepRecord) -> None:
        opened = step.span
        if self._open.pop(step.step, None) is None or not isinstance(opened, _OpenStep):
            return
        step.span = None
        attributes = step_attributes(self._history, step)
        ended = self._history.now() if step.ended is None else step.ended
        outcome, status = step.outcome, step.status

        def make() -> None:
            links = [Link(self._step_spans[one]) for one in opened.joins if one in self._step_spans]
            span = self._tracer.start_span(
                f"{operation(step)} {step.model}" if step.model else operation(step),
                context=opened.parent,
                kind=SpanKind.CLIENT,
                attributes=attributes,
                links=links,
                start_time=self._at(step.started),
            )
            self._step_spans[step.step] = span.get_span_context()
            if len(self._step_spans) > RECORDS_MAX:
                del self._step_spans[next(iter(self._step_spans))]
            self._finish(span, ended, outcome, str(status) if status and status >= 400 else "_OTHER")

        background.put(make)
        self._done_in(opened.agent, ended)

    def start_tool(self, tool: ToolRecord) -> None:
        parent = self._parent()
        with self._lock:
            agent = self._agents.get(tool.branch, {}).get(get_current_span(parent).get_span_context().span_id)
            if agent is not None:
                agent.running += 1
                parent = set_span_in_context(agent.span, parent)
        span = self._tracer.start_span(
            f"execute_tool {tool.tool}",
            context=parent,
            attributes=tool_attributes(self._history, tool),
            start_time=self._at(tool.started),
        )
        tool.span = _OpenTool(make_current(span), agent)

    def end_tool(self, tool: ToolRecord) -> None:
        opened = tool.span
        if not isinstance(opened, _OpenTool):
            return
        tool.span = None
        span = opened.current.span
        opened.current.leave()
        ended = self._history.now() if tool.ended is None else tool.ended
        with self._lock:
            inner = self._agents.get(tool.branch, {}).pop(span.get_span_context().span_id, None)
        self._leave(inner)
        self._end(span, ended, tool.outcome)
        self._done_in(opened.agent, ended)

    def _parent(self) -> Context:
        """Returns the context that is current here; that of the program where it got lost on the way."""
        here = get_current()
        if self._program is None or get_current_span(here).get_span_context().is_valid:
            return here
        return set_span_in_context(self._program.span, here)

    def _joins(self, step: StepRecord) -> tuple[str, ...]:
        """Returns what the step waited for beside its own place: several steps, or what a fork ended with."""
        if len(step.parents) == 1 and step.parents[0] not in self._tips.forks:
            return ()
        return self._tips.steps_of(step.parents)[:SPAN_LINKS_MAX]

    def _agent_of(self, step: StepRecord, parent: Context) -> _Agent | None:
        """Returns the span of the step's agent, which begins with the first of its consecutive steps."""
        place = get_current_span(parent).get_span_context().span_id
        agents = self._agents.get(step.branch, {})
        agent = agents.get(place)
        if agent is not None and agent.name == step.agent:
            return agent
        self._leave(agents.pop(place, None))
        if step.agent is None:
            return None
        agents = self._agents[step.branch]
        span = self._tracer.start_span(
            f"invoke_agent {step.agent}",
            context=parent,
            attributes=agent_attributes(self._history, step),
            start_time=self._at(step.started),
        )
        agent = agents[place] = _Agent(step.agent, span, step.started)
        if len(agents) > AGENTS_MAX:
            self._leave(agents.pop(next(iter(agents))))
        return agent

    def _leave_agents(self, branch: str) -> None:
        with self._lock:
            left = self._agents.pop(branch, {})
        for agent in left.values():
            self._leave(agent)

    def _leave(self, agent: _Agent | None) -> None:
        if agent is not None:
            agent.left = True
            if not agent.running:
                self._end(agent.span, agent.ended, None)

    def _done_in(self, agent: _Agent | None, ended: float) -> None:
        if agent is None:
            return
        with self._lock:
            agent.running -= 1
            agent.ended = max(agent.ended, ended)
            over = agent.left and not agent.running
        if over:
            self._end(agent.span, agent.ended, None)

    def _end(self, span: Span, ended: float | None, outcome: str | None) -> None:
        at = self._history.now() if ended is None else ended
        background.put(lambda: self._finish(span, at, outcome, "_OTHER"))

    def _finish(self, span: Span, ended: float, outcome: str | None, error: str) -> None:
        if outcome == "error":
            span.set_status(Status(StatusCode.ERROR))
            span.set_attribute("error.type", error)
        if outcome not in (None, "ok"):
            span.set_attribute("llmd.outcome", str(outcome))
        span.end(self._at(ended))

    def _at(self, seconds: float) -> int:
        """Returns Unix nanoseconds."""
        return self._zero + int(seconds * 1e9)
