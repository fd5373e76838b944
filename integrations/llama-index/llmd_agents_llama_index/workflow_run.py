"""One run of a workflow: its steps go on from the steps whose events they are started by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.core.agent.workflow import (
    AgentInput,
    AgentOutput,
    AgentSetup,
    AgentWorkflow,
    BaseWorkflowAgent,
    ToolCall,
)
from llama_index.core.workflow import Event, Workflow

from llmd_agents.client import begin_scope

from .origins import Origin, origins
from .outcome import outcome_of
from .place import Place, current_place
from .routing import routing_of

if TYPE_CHECKING:
    from llmd_agents.client import Scope


class WorkflowRun:
    """Made when a run begins; entered by its task until it ends.

    Attributes:
        is_agent: whether the workflow is one of LlamaIndex's agents.
        takes_turns: whether it is one that does one thing at a time in each of its steps.
        routing: which steps its events start.
        untraced: places that others go on from without an event of theirs: those that ask a person, whose
            answer comes from outside, and those that return an empty list.
        cancelled: whether the framework tells that it was.

    Args:
        thread: of the conversation that it belongs to.
    """

    def __init__(self, workflow: Workflow, start_event: Event | None, thread: str | None) -> None:
        self.is_agent = isinstance(workflow, (AgentWorkflow, BaseWorkflowAgent))
        self.takes_turns = self.is_agent and type(workflow).__module__.startswith("llama_index.")
        self.untraced: list[Place] = []
        self.stopped_in: Place | None = None
        self.cancelled = False
        self.routing = routing_of(type(workflow))
        self._surroundings = current_place.get()
        if self._surroundings is not None:
            self._surroundings.begins()
        self._agent = self._label = workflow.name if isinstance(workflow, BaseWorkflowAgent) else None
        self.scope = begin_scope(self._agent or type(workflow).__name__, agent=self._agent, thread=thread)
        self._first_scope: Scope | None = None
        self._begun = False
        self._beginning = Place(self, self.scope)
        if start_event is not None:
            self._beginning.send(start_event)
        self.scope.enter()

    def begin_step(self, name: str, events: list[Event]) -> Place:
        """Begins a step that these events start, and enters its scope."""
        origin = origins.get(events[0]) if len(events) == 1 else None
        sender = origin.place if origin is not None and origin.goes_on and not origin.attempts else None
        if sender is not None and sender.run is self:
            place = Place(self, sender.scope, sender.agent)
        else:
            place = self._begin_after(name, events, self.agent_of(name, events))
        self._begun = True
        for event in events:
            if (found := origin or origins.get(event)) is not None:
                found.attempts[name] = place
            if isinstance(event, ToolCall):
                place.asked = event.tool_name, event.tool_id
        if place.scope is not None:
            place.scope.enter()
        return place

    def _begin_after(self, name: str, events: list[Event], agent: str | None) -> Place:
        """Begins a step that does not merely go on from another in its scope."""
        after, origin = self._after(name, events)
        if (tools := origin.tools) is not None:
            is_call = isinstance(events[0], ToolCall)
            return Place(self, tools.open(agent, call=True) if is_call else None, agent, tools)
        if origin.begun is not None:
            scope, origin.begun = origin.begun, None
            return Place(self, scope, agent)
        if not self._begun and origin.fan_out is None and agent == self._label:
            return Place(self, None, agent)
        after_scopes = [place.followed() for place in after]
        return Place(self, self.scope.follow(*after_scopes, agent=agent, of=origin.fan_out), agent)

    def first_scope(self) -> Scope:
        """Returns what stands for the first steps, which are in the run's own scope."""
        if self._first_scope is None:
            self._first_scope = self.scope.follow()
        return self._first_scope

    def end(self, result: object, error: BaseException | None) -> None:
        last = None if self.stopped_in is None else self.stopped_in.scope
        self.scope.end("cancelled" if self.cancelled else outcome_of(error), last=last)

    def agent_of(self, name: str, events: list[Event]) -> str | None:
        """Returns the label of a step that events start."""
        if not self.is_agent:
            return name
        if events and isinstance(events[0], (AgentInput, AgentSetup, AgentOutput)):
            self._agent = events[0].current_agent_name
        return self._agent

    def _after(self, name: str, events: list[Event]) -> tuple[list[Place], Origin]:
        """Returns what a step goes on from, and the origin of the event that starts it, if it is one."""
        places: dict[Place, None] = {}
        alone = Origin()
        for event in events:
            origin = origins.get(event)
            sender = self._place_here(origin.place) if origin is not None else None
            if origin is not None and name in origin.attempts:
                places[origin.attempts[name]] = None
                alone = Origin(tools=origin.tools)
            elif origin is None or origin.place is None or sender is None:
                failed = _failed_attempt(event)
                places.update(dict.fromkeys([failed] if failed else self._take_untraced()))
                if origin is None:
                    origins.put(event, Origin())
            else:
                origin.place.settle()
                places[sender] = None
                if len(events) == 1:
                    alone = origin
        if not events:
            places.update(dict.fromkeys(self._take_untraced()))
        return [place for place in places if place is not self._beginning], alone

    def _take_untraced(self) -> list[Place]:
        taken, self.untraced = self.untraced, []
        return taken

    def _place_here(self, place: Place | None) -> Place | None:
        """Returns the place in this run that an event was sent from, perhaps by a run within this one."""
        sender = place
        while sender is not None and sender.run is not self:
            sender = sender.run._surroundings
        return sender


def _failed_attempt(event: Event) -> Place | None:
    """Returns the step whose failure an event tells of."""
    started_by, name = getattr(event, "input_event", None), getattr(event, "step_name", None)
    origin = origins.get(started_by) if isinstance(started_by, Event) else None
    return origin.attempts.get(name) if origin is not None and isinstance(name, str) else None
