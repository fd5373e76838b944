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
        routing: which steps its events start.
        untraced: places that others go on from without an event of theirs: those that ask a person, whose
            answer comes from outside, and those that return an empty list.
        cancelled: whether the framework tells that it was.

    Args:
        thread: of the conversation that it belongs to.
    """

    def __init__(self, workflow: Workflow, start_event: Event | None, thread: str | None) -> None:
        self.is_agent = isinstance(workflow, (AgentWorkflow, BaseWorkflowAgent))
        self.routing = routing_of(type(workflow))
        self.untraced: list[Place] = []
        self.cancelled = False
        self._surroundings = surroundings = current_place.get()
        if surroundings is not None:
            surroundings.settle(goes_on=True)
        self._agent = workflow.name if isinstance(workflow, BaseWorkflowAgent) else None
        self.scope = begin_scope(self._agent or type(workflow).__name__, agent=self._agent, thread=thread)
        self._beginning = Place(self, self.scope)
        if start_event is not None:
            self._beginning.send(start_event)
        self.scope.enter()

    def begin_step(self, name: str, events: list[Event]) -> Place:
        """Begins a step that these events start, and enters its scope."""
        agent = self.agent_of(name, events)
        after, origin = self._after(name, events)
        if origin.tools is not None:
            scope = origin.tools.open(agent, call=isinstance(events[0], ToolCall))
        elif origin.begun is not None:
            scope, origin.begun = origin.begun, None
        else:
            scope = self.scope.follow(*after, agent=agent, of=origin.fan_out)
        place = Place(self, scope, agent=agent, tools=origin.tools)
        if events and isinstance(events[0], ToolCall):
            place.asked = events[0].tool_name, events[0].tool_id
        for event in events:
            if (found := origins.get(event)) is not None:
                found.attempts[name] = place
        scope.enter()
        return place

    def follow(self, after: Scope, name: str, event: Event) -> Scope:
        """Opens the scope of a step that is about to be started by an event."""
        return self.scope.follow(after, agent=self.agent_of(name, [event]))

    def end(self, result: object, error: BaseException | None) -> None:
        self.scope.end("cancelled" if self.cancelled else outcome_of(error))

    def _after(self, name: str, events: list[Event]) -> tuple[list[Scope], Origin]:
        """Returns what a step goes on from, and the origin of the event that starts it, if it is one."""
        places: dict[Place, None] = {}
        alone = Origin()
        for event in events:
            origin = origins.get(event)
            if origin is not None and name in origin.attempts:
                places[origin.attempts[name]] = None
                alone = Origin(tools=origin.tools)
            elif origin is None or origin.place is None:
                failed = _failed_attempt(event)
                places.update(dict.fromkeys([failed] if failed else self._take_untraced()))
                if origin is None:
                    origins.put(event, origin := Origin())
            else:
                origin.place.settle()
                if (sender := self._place_here(origin.place)) is not None:
                    places[sender] = None
                if len(events) == 1:
                    alone = origin
        if not events:
            places.update(dict.fromkeys(self._take_untraced()))
        return [place.scope for place in places if place is not self._beginning], alone

    def _take_untraced(self) -> list[Place]:
        taken, self.untraced = self.untraced, []
        return taken

    def _place_here(self, place: Place) -> Place | None:
        """Returns the place in this run that an event was sent from, perhaps by a run within this one."""
        sender: Place | None = place
        while sender is not None and sender.run is not self:
            sender = sender.run._surroundings
        return sender

    def agent_of(self, name: str, events: list[Event]) -> str | None:
        if not self.is_agent:
            return name
        if events and isinstance(events[0], (AgentInput, AgentSetup, AgentOutput)):
            self._agent = events[0].current_agent_name
        return self._agent


def _failed_attempt(event: Event) -> Place | None:
    """Returns the step whose failure an event tells of."""
    started_by, name = getattr(event, "input_event", None), getattr(event, "step_name", None)
    origin = origins.get(started_by) if isinstance(started_by, Event) else None
    return origin.attempts.get(name) if origin is not None and isinstance(name, str) else None
