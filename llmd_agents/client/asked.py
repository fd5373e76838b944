"""The tools that a branch's answers ask for: they are waited for from the answer on, whoever runs them."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llmd_agents.hints.fields import Id

from . import quiet
from .declared_tools import DeclaredTool, declared_tool
from .durations import tool_durations
from .guard import guard
from .open_call import OpenCall
from .tool_name import tool_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llmd_agents.hints import Lifetime, Outcome

    from .branch import Branch

OPEN_MAX: Final = 256
"""Calls of one branch that are waited for at once; the oldest of more are given up."""

LIFETIMES_MAX: Final = 1024
"""Calls of one branch whose results' lifetimes are remembered."""

_ID: TypeAdapter[str] = TypeAdapter(Id, config=ConfigDict(defer_build=True))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call whose result has not come.

    Attributes:
        teaches: whether the time to its result is that tool's alone.
    """

    call: OpenCall
    teaches: bool


class AskedTools:
    """The calls of tools that one branch waits for. Nothing here ever raises.

    A call begins when an answer asks for it. The `@tool` that runs it takes it over and ends it; a call that
    none takes over ends when its result is sent to the model, or with its branch.
    """

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        # In the order of asking. Plain dictionaries, for a fork has up to 100,000 branches.
        self._open: dict[str, _Asked] = {}
        self._lifetimes: dict[str, Lifetime | float] = {}

    def asked(self, step: str, calls: Sequence[tuple[str, str]]) -> None:
        """Notes that a step's answer asks for tools, and tells the servers at once.

        Args:
            calls: (call id as the model gave it, name of the tool); those past `OPEN_MAX` are left out.
        """
        with quiet.faults("calls of tools are not foretold"):
            calls = calls[:OPEN_MAX]
            alone = len({name for _, name in calls}) == 1
            for index, (call_id, name) in enumerate(calls):
                self._ask(step, call_id, tool_name(name), teaches=alone and index == 0)

    def adopt(self, name: str, call_id: str | None = None) -> OpenCall | None:
        """Returns the call that a tool now runs, which is its own from here on; None if none was asked for.

        Args:
            call_id: which one, where the caller knows; otherwise the oldest of that name.
        """
        with guard:
            if call_id is None:
                call_id = next(
                    (key for key, open_ in self._open.items() if open_.call.record.tool == name), None
                )
            found = self._open.pop(call_id, None) if call_id is not None else None
        return found.call if found is not None else None

    def resulted(self, call_ids: Iterable[str]) -> None:
        """Ends the calls whose results a new request brings, unless a tool has taken them over."""
        if not self._open:
            return
        with quiet.faults("a tool's result is not noted"):
            for call_id in call_ids:
                with guard:
                    found = self._open.pop(call_id, None)
                if found is not None:
                    _end(found.call, "ok")
                    record = found.call.record
                    declared = declared_tool(record.tool)
                    if found.teaches and (declared is None or declared.told):
                        tool_durations().observe(record.tool, found.call.history.now() - record.started)

    def lifetime_of(self, call_id: str) -> Lifetime | float | None:
        """Returns how long a call's result matters, where that is declared; a number is seconds."""
        return self._lifetimes.get(call_id)

    def close(self, outcome: Outcome = "abandoned") -> None:
        """Ends all calls that are still waited for: the branch has ended."""
        if not self._open:
            return
        with quiet.faults("calls of tools are not ended"):
            with guard:
                left = list(self._open.values())
                self._open.clear()
            for found in left:
                _end(found.call, outcome)

    def _ask(self, step: str, call_id: str, name: str, *, teaches: bool) -> None:
        if call_id in self._open:
            return  # the same answer, seen again
        tool = declared_tool(name) or DeclaredTool(name)
        call = OpenCall.begin(self._branch, self._own_id(call_id), tool, asked_by=step)
        with guard:
            self._open[call_id] = _Asked(call, teaches)
            dropped = self._open.pop(next(iter(self._open))) if len(self._open) > OPEN_MAX else None
            if tool.result_lifetime is not None:
                self._lifetimes[call_id] = tool.result_lifetime
                if len(self._lifetimes) > LIFETIMES_MAX:
                    del self._lifetimes[next(iter(self._lifetimes))]
        if dropped is not None:
            _end(dropped.call, "abandoned")

    def _own_id(self, call_id: str) -> str:
        try:
            return _ID.validate_python(call_id)
        except ValidationError:
            return self._branch.run.call_ids.next()


def _end(call: OpenCall, outcome: Outcome) -> None:
    # In a context of its own: what an observer makes current for a tool must not stay so for the application.
    contextvars.copy_context().run(call.answered, outcome)
