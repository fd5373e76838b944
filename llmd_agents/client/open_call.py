"""One call of a tool that has begun: the events that tell of it, its record, and its observers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llmd_agents.hints import ToolFinished, ToolStarted

from .clock import event_time
from .declared_tools import DeclaredTool, expectation
from .history import History, ToolRecord
from .observer import tell

if TYPE_CHECKING:
    from llmd_agents.hints import Outcome

    from .branch import Branch
    from .run import Run


@dataclass(slots=True, eq=False)
class OpenCall:
    """Belongs to one party at a time: to those who asked for it, then to the tool that runs it."""

    run: Run
    history: History
    record: ToolRecord

    @classmethod
    def begin(cls, branch: Branch, call: str, tool: DeclaredTool, asked_by: str | None = None) -> OpenCall:
        """Tells the servers that the branch waits for a tool from now on."""
        run = branch.run
        expected, sigma = expectation(tool)
        record = ToolRecord(
            call=call,
            tool=tool.name,
            branch=branch.id,
            started=run.history.now(),
            asked_by=asked_by,
            expected=expected,
            result_lifetime=tool.result_lifetime,
        )
        run.history.keep(run.history.tools, record)
        run.announce(
            partial(
                ToolStarted,
                program=run.id,
                at=event_time(),
                branch=branch.id,
                call=call,
                tool=tool.name,
                expected=expected,
                sigma=sigma,
                result_lifetime=tool.result_lifetime,
            )
        )
        return cls(run, run.history, record)

    def run_here(self) -> None:
        """The tool's own code begins; to be called in its context."""
        self.record.started = self.history.now()
        tell(lambda observer: observer.tool_started(self.history, self.record))

    def leave(self, outcome: Outcome) -> None:
        """The tool's own code has ended; to be called in its context."""
        self._end(outcome)
        tell(lambda observer: observer.tool_ended(self.history, self.record))

    def answered(self, outcome: Outcome) -> None:
        """A tool whose code was not seen to run has ended."""
        tell(lambda observer: observer.tool_started(self.history, self.record))
        self.leave(outcome)

    def _end(self, outcome: Outcome) -> None:
        record = self.record
        record.ended, record.outcome = self.history.now(), outcome
        self.run.announce(
            partial(
                ToolFinished,
                program=self.run.id,
                at=event_time(),
                branch=record.branch,
                call=record.call,
                tool=record.tool,
                outcome=outcome,
            )
        )
