"""Histories as the client would have written them, from a few words each."""

from __future__ import annotations

from typing import Any

from llmd_agents.client.history import BranchRecord, ForkRecord, History, StepRecord, ToolRecord
from llmd_agents.hints import ForkPosition


def history(ended: float | None, name: str = "essays") -> History:
    made = History(f"{name}-1", name, started_at=1_700_000_000.0)
    if ended is not None:
        made.ended, made.outcome = ended, "ok"
    return made


def step(
    to: History, name: str, started: float, ended: float | None, *parents: str, **more: Any
) -> StepRecord:
    given: dict[str, Any] = {
        "branch": "main",
        "join": None,
        "kind": None,
        "agent": None,
        "model": "m",
        "fork": None,
        "loop": None,
        "route": "chat/completions",
        "server": "http://engine:8000/v1",
        "prompt_bytes": 0,
        "new_bytes": 0,
        "outcome": "ok",
    }
    record = StepRecord(step=name, parents=parents, started=started, ended=ended, **{**given, **more})
    to.steps.append(record)
    return record


def tool(to: History, call: str, name: str, started: float, ended: float | None, **more: Any) -> ToolRecord:
    record = ToolRecord(call, name, more.pop("branch", "main"), started, ended=ended, outcome="ok", **more)
    to.tools.append(record)
    return record


def fork(to: History, name: str, spans: list[tuple[float, float]], *parents: str, **more: Any) -> ForkRecord:
    """Adds a fork, and a branch for each (start, end)."""
    on = more.pop("branch", "main")
    outcomes = more.pop("outcomes", ["ok"] * len(spans))
    started = min((start for start, _ in spans), default=0.0)
    ended = max((end for _, end in spans), default=0.0)
    record = ForkRecord(name, more.pop("called", None), on, len(spans), parents, started, ended=ended, **more)
    to.forks.append(record)
    for index, ((start, end), outcome) in enumerate(zip(spans, outcomes, strict=True)):
        to.branches.append(
            BranchRecord(f"{name}.{index}", name, index, parents, start, ended=end, outcome=outcome)
        )
    return record


def on(fork: ForkRecord, index: int) -> dict[str, Any]:
    """Returns the place of a step on a fork's branch."""
    return {
        "branch": f"{fork.fork}.{index}",
        "fork": ForkPosition(id=fork.fork, index=index, width=fork.width),
    }
