"""A place in a workflow's run that events are sent from: its beginning, or a step."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from llama_index.core.agent.workflow import ToolCall
from llama_index.core.workflow import Event, InputRequiredEvent, StopEvent

from .origins import Origin, origins
from .outcome import outcome_of
from .tool_round import ToolRound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.client import Scope

    from .workflow_run import WorkflowRun


class Place:
    """What is sent together, without anything of the place's own between, starts side by side.

    An agent takes several steps for each call of its model, most of them without any. So a step that alone
    goes on from another, with the same label, goes on in its scope, and the first ones in the run's.

    Attributes:
        scope: where its model calls are; another one once it has collected events. None while they are in the
            run's own scope, or for a step of a round of tool calls that has not begun anything.
        agent: that makes its model calls.
        tools: the round of tool calls that it is part of.
        asked: name and id of the tool call that it is to make, until that begins.
        cancelled: whether the framework tells that it was.
    """

    def __init__(
        self, run: WorkflowRun, scope: Scope | None, agent: str | None = None, tools: ToolRound | None = None
    ) -> None:
        self.run = run
        self.scope = scope
        self.agent = agent
        self.tools = tools
        self.asked: tuple[str, str] | None = None
        self.cancelled = False
        self._over = False
        self._sent: list[tuple[Event, Origin, Sequence[str]]] = []
        self._settled = False

    def send(self, event: Event, step: str | None = None) -> None:
        """Notes an event that leaves from here.

        Args:
            step: the only one that it is for.
        """
        origin = Origin(self, tools=self.tools)
        origins.put(event, origin)
        starts = self.run.routing.steps_for(event) if step is None else (step,)
        self._sent.append((event, origin, starts))

    def begins(self) -> None:
        """Something of the place's own is about to begin, which what it has sent does not wait for."""
        if self._sent:
            self.settle(goes_on=True)
        if self.tools is not None and self.scope is None:
            self.scope = self.tools.open(self.agent, call=False)
            self.scope.enter()

    def settle(self, *, goes_on: bool = False) -> None:
        """Declares the fork that the events make which were sent since the last time, if they make one.

        Args:
            goes_on: whether the place is about to do more, which the steps that they start do not wait for.
        """
        if not self._sent:
            return
        sent, self._sent = self._sent, []
        self._settled = True
        if self.run.is_agent and all(isinstance(event, ToolCall) for event, _, _ in sent):
            tools = ToolRound(self, len(sent))
            for _, origin, _ in sent:
                origin.tools = tools
            return
        starts = [(event, origin, name) for event, origin, names in sent for name in names]
        if len(starts) == 1 and goes_on:
            event, origin, name = starts[0]
            agent = self.run.agent_of(name, [event])
            origin.begun = self.run.scope.follow(self.followed(), agent=agent)
        elif len(starts) > 1:
            names = {name for _, _, name in starts}
            fan_out = self.followed().fan_out(len(starts), names.pop() if len(names) == 1 else None)
            for _, origin, _ in starts:
                origin.fan_out = fan_out

    def followed(self) -> Scope:
        """Returns the scope that what comes after the place follows."""
        if self.scope is None:
            self.scope = self.run.first_scope()
            if self._over:
                self.scope.end()
        return self.scope

    def take_call(self, tool: str) -> str | None:
        """Returns the id of the call that a tool which begins here was asked for by, if it was."""
        if self.asked is None or self.asked[0] != tool:
            return None
        call, self.asked = self.asked[1], None
        return call

    def collected(self, event: Event, found: list[Event] | None) -> None:
        """Notes what `collect_events` has returned here for an event: None, or all that it waited for."""
        if found is None:
            if (origin := origins.get(event)) is not None:
                origin.set_aside = self
            return
        if self.tools is not None:
            if self.scope is not None:
                self.scope.end()
            self.scope, self.tools = self.tools.end(self.agent), None
        else:
            kept = [place for one in found if one is not event and (place := _kept_in(one)) is not None]
            after = dict.fromkeys([self.followed(), *(place.followed() for place in kept)] if kept else [])
            if len(after) < 2:
                return
            self.followed().end()
            self.scope = self.run.scope.follow(*after, agent=self.agent)
        if self.scope is not None:
            self.scope.enter()

    def end(self, result: object, error: BaseException | None) -> None:
        self._over = True
        if isinstance(result, StopEvent):
            self.run.stopped_in = self
        elif isinstance(result, Event):
            self.send(result)
        elif isinstance(result, list):
            for event in result:
                self.send(event)
        if isinstance(result, InputRequiredEvent) or (isinstance(result, list) and not result):
            self.run.untraced.append(self)
        elif error is None and not self.cancelled and self._hands_on():
            if self.scope is not None:
                self.scope.leave()
            return
        self.settle()
        if self.scope is not None:
            self.scope.end("cancelled" if self.cancelled else outcome_of(error))

    def _hands_on(self) -> bool:
        """Leaves its scope to the step that alone goes on from here, if there is one with the same label."""
        if self._settled or self.tools is not None or len(self._sent) != 1:
            return False
        event, origin, starts = self._sent[0]
        if len(starts) != 1 or (self.scope or self.run.scope).busy:
            return False
        origin.goes_on = self.run.agent_of(starts[0], [event]) == self.agent
        if origin.goes_on:
            self._sent = []
        return origin.goes_on


def _kept_in(event: Event) -> Place | None:
    """Returns the step that kept an event until it was collected, or else sent it."""
    origin = origins.get(event)
    return None if origin is None else origin.set_aside or origin.place


current_place: Final[ContextVar[Place | None]] = ContextVar("llmd_agents_place", default=None)
"""The step of a workflow that the calling code is in."""
