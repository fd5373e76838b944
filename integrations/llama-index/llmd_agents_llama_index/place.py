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
    from llmd_agents.client import Scope

    from .workflow_run import WorkflowRun


class Place:
    """What is sent together, without anything of the place's own between, starts side by side.

    Attributes:
        scope: where its model calls are; another one once it has collected events.
        tools: the round of tool calls that it is part of.
        asked: name and id of the tool call that it is to make, until that begins.
        cancelled: whether the framework tells that it was.

    Args:
        agent: that makes its model calls.
    """

    def __init__(
        self, run: WorkflowRun, scope: Scope, *, agent: str | None = None, tools: ToolRound | None = None
    ) -> None:
        self.run = run
        self.scope = scope
        self.tools = tools
        self.asked: tuple[str, str] | None = None
        self.cancelled = False
        self._agent = agent
        self._sent: list[tuple[Event, str | None]] = []
        self._sent_before = False

    def send(self, event: Event, step: str | None = None) -> None:
        """Notes an event that leaves from here.

        Args:
            step: the only one that it is for.
        """
        origins.put(event, Origin(place=self, tools=self.tools))
        self._sent.append((event, step))

    def settle(self, *, goes_on: bool = False) -> None:
        """Declares the fork that the events make which were sent since the last time, if they make one.

        Args:
            goes_on: whether the place is about to do more, which the steps that they start do not wait for.
        """
        if not self._sent:
            return
        sent, self._sent = self._sent, []
        self._sent_before = True
        if self.run.is_agent and all(isinstance(event, ToolCall) for event, _ in sent):
            tools = ToolRound(self, len(sent))
            for event, _ in sent:
                if (origin := origins.get(event)) is not None:
                    origin.tools = tools
            return
        starts = self._starts(sent)
        if len(starts) == 1 and goes_on:
            event, name = starts[0]
            if (origin := origins.get(event)) is not None:
                origin.begun = self.run.follow(self.scope, name, event)
        elif len(starts) > 1:
            names = {name for _, name in starts}
            fan_out = self.scope.fan_out(len(starts), names.pop() if len(names) == 1 else None)
            for event, _ in starts:
                if (origin := origins.get(event)) is not None:
                    origin.fan_out = fan_out

    def _starts(self, sent: list[tuple[Event, str | None]]) -> list[tuple[Event, str]]:
        """Returns the steps that events start, each with its event."""
        routing = self.run.routing
        return [
            (event, name) for event, step in sent for name in ([step] if step else routing.steps_for(event))
        ]

    def _hand_on(self) -> bool:
        """Leaves the scope to an agent's next step, if that alone goes on from here; returns whether it does.

        An agent takes several steps for each call of its model. They are as one, and cost as much.
        """
        if not self.run.is_agent or self.tools is not None or self._sent_before or self.scope.busy:
            return False
        if len(self._sent) != 1 or len(starts := self._starts(self._sent)) != 1:
            return False
        event, name = starts[0]
        origin = origins.get(event)
        if origin is None or self.run.agent_of(name, [event]) != self._agent:
            return False
        origin.begun = self.scope
        self._sent = []
        self.scope.leave()
        return True

    def take_call(self, tool: str) -> str | None:
        """Returns the id of the call that a tool which begins here was asked for by, if it was."""
        if self.asked is None or self.asked[0] != tool:
            return None
        call, self.asked = self.asked[1], None
        return call

    def collected(self, event: Event, found: list[Event] | None) -> None:
        """Notes what `collect_events` has returned here for an event: None, or all that it waited for."""
        origin = origins.get(event)
        if found is None:
            if origin is not None:
                origin.set_aside = self
            return
        after: dict[Scope, None] = {self.scope: None}
        for one in found:
            if one is not event and (origin := origins.get(one)) is not None:
                kept_in = origin.set_aside or origin.place
                if kept_in is not None:
                    after[kept_in.scope] = None
        if self.tools is not None:
            self.scope.end()
            after = dict.fromkeys(self.tools.end())
            self.tools = None
        elif len(after) == 1:
            return
        self.scope.end()
        self.scope = self.run.scope.follow(*after, agent=self._agent)
        self.scope.enter()

    def end(self, result: object, error: BaseException | None) -> None:
        if isinstance(result, Event) and not isinstance(result, StopEvent):
            self.send(result)
        elif isinstance(result, list):
            for event in result:
                self.send(event)
        if isinstance(result, InputRequiredEvent) or result == []:
            self.run.untraced.append(self)
        if error is not None or self.cancelled or not self._hand_on():
            self.settle()
            self.scope.end("cancelled" if self.cancelled else outcome_of(error))


current_place: Final[ContextVar[Place | None]] = ContextVar("llmd_agents_place", default=None)
"""The step of a workflow that the calling code is in."""
