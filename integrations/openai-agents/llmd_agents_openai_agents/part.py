"""A part of a run: what one trace or span of the SDK stands for, and how what it contains is ordered."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llmd_agents.client import Scope


class Part:
    """Within a part, all that is no guardrail goes on from one another, in its *lane*.

    Guardrails run beside the lane, each on a branch of its own. What the lane holds was given a prompt that
    the next turn extends; a guardrail's prompt ends with it.

        agent ── lane: turn > turn          turn ── lane: call > tools
              └─ guardrail                       └─ guardrail

    Guardrails that are over before the lane's first call begins were waited for, and so is the lane by those
    that begin after all of it is over: then there is a new lane.

    Attributes:
        scope: of the part.
        tool: that it is a call of.
        guarded: whether guardrails may run in it. Without any, the part itself is the lane.
        failed: whether the agent that ended last in it did so with an error.
    """

    def __init__(
        self, scope: Scope, tool: AbstractContextManager[object] | None = None, *, guarded: bool = False
    ) -> None:
        self.scope = scope
        self.tool = tool
        self.guarded = guarded
        self.failed = False
        # An application may run an agent while it handles an exception, which is none of the run's.
        self._handled_before = sys.exception()
        self._lane: Scope | None = None
        self._lane_is_used = False
        self._plain = 0
        self._guardrails: list[Scope] = []
        self._phase = object()
        self._tools: object = None

    def open(self, agent: str | None = None) -> Scope:
        """Opens what follows all that is over in the part."""
        self._tools = None
        return self._lane_to_use().open(agent=agent)

    def begin_plain(self) -> None:
        """Begins what follows all that is over in the part, and needs no scope: its calls are the part's."""
        self._tools = None
        self._lane_to_use()
        self._plain += 1

    def end_plain(self) -> None:
        self._plain -= 1

    def open_tool(self) -> Scope:
        """Opens a call of a tool. Those of one turn run side by side, even if they take turns."""
        self._tools = self._tools or object()
        return self._lane_to_use().open(phase=self._tools)

    def open_guardrail(self) -> Scope:
        """Opens what runs beside all that is not over in the part."""
        if self._lane is None or self._guardrails_were_first() or self._lane_is_over(self._lane):
            self._begin_lane()
        guardrail = self.scope.open(kind="evaluate", phase=self._phase)
        self._guardrails.append(guardrail)
        return guardrail

    def end(self, *, failed: bool = False) -> bool:
        """Ends the part, in the code that the SDK ends it in; returns whether it has failed."""
        raised = sys.exception()
        failed = failed or self.failed
        kind: type[BaseException] | None = Exception if failed else None
        if raised is not None and raised is not self._handled_before:
            kind = type(raised)
        if self.tool is not None:
            self.tool.__exit__(kind, None, None)
        if self._lane is not None:
            self._lane.__exit__(kind, None, None)
        self.scope.__exit__(kind, None, None)
        return kind is not None

    def _lane_to_use(self) -> Scope:
        lane = self._lane
        if lane is None and not self.guarded:
            return self.scope
        if lane is None or self._guardrails_were_first():
            lane = self._begin_lane()
        self._lane_is_used = True
        return lane

    def _lane_is_over(self, lane: Scope) -> bool:
        return self._lane_is_used and not self._plain and not lane.busy

    def _guardrails_were_first(self) -> bool:
        if self._lane_is_used or not self._guardrails:
            return False
        return all(guardrail.ended for guardrail in self._guardrails)

    def _begin_lane(self) -> Scope:
        """Lets what follows wait for what is over. A lane is opened first: it goes on with the branch."""
        if self._lane is not None:
            self._lane.end()
        self._phase = object()
        self._lane = lane = self.scope.open(phase=self._phase)
        self._lane_is_used = False
        self._guardrails = []
        return lane
