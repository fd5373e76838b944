"""Programs as histories, told step by step to an observer; their times are stated, not measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmd_agents.client import Run, program
from llmd_agents.client.frame import Frame, frame
from llmd_agents.client.history import BranchRecord, ForkRecord, History, StepRecord, ToolRecord
from llmd_agents.client.observer import Observer
from llmd_agents.hints import ForkPosition

STARTED_AT = 1_700_000_000.0


class Teller:
    """Writes a history and tells an observer of it, as the client does."""

    def __init__(self, observer: Observer, name: str = "essays") -> None:
        self.observer = observer
        self.run: Run = program(name, id=f"{name}-1")
        self.history = self.run.history = History(self.run.id, name, started_at=STARTED_AT)

    @contextmanager
    def program(self, ended: float) -> Iterator[None]:
        with frame(Frame(self.run.root)):
            self.observer.program_started(self.history)
            try:
                yield
            finally:
                self.history.ended, self.history.outcome = ended, "ok"
                self.observer.program_ended(self.history)

    def begin(self, step: str, at: float, **more: Any) -> StepRecord:
        given = {
            "branch": "main",
            "parents": (),
            "join": None,
            "kind": None,
            "agent": None,
            "model": "m",
            "fork": None,
            "loop": None,
            "route": "chat/completions",
            "server": "http://10.0.0.7:8000/v1",
            "prompt_bytes": 400,
            "new_bytes": 100,
        }
        record = StepRecord(step=step, started=at, **{**given, **more})
        self.history.steps.append(record)
        self.observer.step_started(self.history, record)
        return record

    def end(self, record: StepRecord, at: float, **more: Any) -> None:
        for name, value in {"ended": at, "outcome": "ok", "status": 200, **more}.items():
            setattr(record, name, value)
        self.observer.step_ended(self.history, record)

    def step(self, step: str, start: float, end: float, **more: Any) -> None:
        late = {"input_tokens", "cached_tokens", "output_tokens", "ack", "outcome", "status", "asked"}
        record = self.begin(step, start, **{name: more[name] for name in more.keys() - late})
        self.end(record, end, **{name: more[name] for name in more.keys() & late})

    @contextmanager
    def tool(self, call: str, tool: str, start: float, end: float, **more: Any) -> Iterator[None]:
        record = ToolRecord(call, tool, more.pop("branch", "main"), start, **more)
        self.history.tools.append(record)
        self.observer.tool_started(self.history, record)
        yield
        record.ended, record.outcome = end, "ok"
        self.observer.tool_ended(self.history, record)

    def fork(self, fork: str, width: int, at: float, **more: Any) -> ForkRecord:
        record = ForkRecord(
            fork, more.pop("name", None), more.pop("branch", "main"), width, **more, started=at
        )
        self.history.forks.append(record)
        self.observer.fork_declared(self.history, record)
        return record

    @contextmanager
    def branch(self, fork: ForkRecord, index: int, start: float, end: float) -> Iterator[dict[str, Any]]:
        """Yields what the branch's steps have in common."""
        record = BranchRecord(f"{fork.fork}.{index}", fork.fork, index, fork.parents, start)
        self.history.branches.append(record)
        self.observer.branch_started(self.history, record)
        position = ForkPosition(id=fork.fork, index=index, width=fork.width)
        yield {"branch": record.branch, "fork": position}
        record.ended, record.outcome = end, "ok"
        self.observer.branch_ended(self.history, record)
