"""A LangGraph graph that runs: supersteps one after another, the nodes of each side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

from llmd_agents.client import FanOut, Scope


@dataclass(eq=False)
class Graph:
    """One run of a graph.

    Attributes:
        step: the superstep that it is in.
        begun: how many of that step's nodes have begun.
        open: how many of those are not over.
        sent: the nodes that this step's results send states to.
        fan_out: what this step's nodes that were sent to are opened of.
        next_fan_out: the same of the next step, if it has been declared.
    """

    scope: Scope
    step: int | None = None
    begun: int = 0
    open: int = 0
    sent: list[str] = field(default_factory=list)
    fan_out: FanOut | None = None
    next_fan_out: FanOut | None = None
    lock: Lock = field(default_factory=Lock)

    def open_node(self, step: int, *, sent: bool, agent: str | None) -> tuple[Scope, FanOut | None]:
        """Opens the scope of a node; returns that, and the fan-out that it belongs to."""
        with self.lock:
            if step != self.step:
                self.fan_out = self.next_fan_out or self._fan_out()
                self.step, self.begun, self.open, self.sent = step, 0, 0, []
            # One that begins after others of its step have ended: what was declared did not wait for it.
            self.next_fan_out = None
            self.begun += 1
            self.open += 1
            fan_out = self.fan_out if sent else None
        return self.scope.open(agent=agent, phase=("step", step), of=fan_out), fan_out

    def node_ended(self, sent: Sequence[str]) -> None:
        """Takes note of what a node that has ended sends; the node's own scope has ended before.

        What a step's only node sends is known now. Of several, some may not have begun: then it is declared
        when the next step begins.
        """
        with self.lock:
            self.open -= 1
            self.sent += sent
            if self.open == 0 and self.begun == 1:
                self.next_fan_out = self._fan_out()

    def _fan_out(self) -> FanOut | None:
        if len(self.sent) < 2:
            return None
        names = set(self.sent)
        return self.scope.fan_out(len(self.sent), names.pop() if len(names) == 1 else None)
