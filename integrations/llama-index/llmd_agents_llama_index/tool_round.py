"""The tool calls that one answer of an agent asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmd_agents.client import FanOut, Scope

    from .place import Place


class ToolRound:
    """They run side by side. The agent's conversation goes on, on its branch, after all of them.

    Args:
        asked_in: the step that sends them off.
        width: how many there are.
    """

    def __init__(self, asked_in: Place, width: int) -> None:
        self._asked_in = asked_in
        self._width = width
        self._scope: Scope | None = None
        self._fan_out: FanOut | None = None
        self._is_followed = False

    def open(self, agent: str | None, *, call: bool) -> Scope:
        """Opens a step of the round: a call, or what a result arrives in while others may not have."""
        if self._scope is None:
            run, asked_in = self._asked_in.run.scope, self._asked_in.scope
            self._scope = run.open() if asked_in is None else run.follow(asked_in)
            self._is_followed = asked_in is not None
            # Most tools call no model, and are then no fork to servers.
            self._fan_out = self._scope.expect_fan_out(self._width, "tools")
        return self._scope.open(agent=agent, phase=self, of=self._fan_out if call else None)

    def end(self, agent: str | None) -> Scope | None:
        """Ends the round; returns the scope of what goes on after it, None if that is in the run's own."""
        if self._scope is None:
            return None
        self._scope.end()
        return self._asked_in.run.scope.follow(self._scope, agent=agent) if self._is_followed else None
