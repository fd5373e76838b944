"""Who is told of what a program does, as it happens: telemetry. Nothing that an observer does can be felt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .quiet import note_fault
from .telemetry import SpansWhenTraced

if TYPE_CHECKING:
    from collections.abc import Callable

    from .history import BranchRecord, ForkRecord, History, StepRecord, ToolRecord


class Observer(Protocol):
    """Is called in the task or thread in which things happen, always with the record that the history keeps.

    A record's `span` belongs to the observer. `branch_started` and `tool_started` are called within the code
    that runs the branch or tool, so that a context variable set there is seen by it.
    """

    def program_started(self, history: History) -> None: ...
    def program_ended(self, history: History) -> None: ...
    def fork_declared(self, history: History, fork: ForkRecord) -> None: ...
    def fork_joined(self, history: History, fork: ForkRecord) -> None: ...
    def branch_started(self, history: History, branch: BranchRecord) -> None: ...
    def branch_ended(self, history: History, branch: BranchRecord) -> None: ...
    def step_started(self, history: History, step: StepRecord) -> None: ...
    def step_ended(self, history: History, step: StepRecord) -> None: ...
    def tool_started(self, history: History, tool: ToolRecord) -> None: ...
    def tool_ended(self, history: History, tool: ToolRecord) -> None: ...


_observers: list[Observer] = [SpansWhenTraced()]


def observe_with(observer: Observer) -> None:
    """Adds an observer of all programs of this process, for good."""
    _observers.append(observer)


def tell(call: Callable[[Observer], None]) -> None:
    """Tells every observer; what one raises is logged and nothing else."""
    for observer in _observers:
        try:
            call(observer)
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody feels it)
            note_fault("an observer failed", error)
