"""Declares a program: `with program("essay-grading") as run: …`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmd_agents.hints import DEFAULT_PRIORITY

if TYPE_CHECKING:
    from .run import Run


def program(
    name: str,
    *,
    priority: int = DEFAULT_PRIORITY,
    deadline: float | None = None,
    id: str | None = None,  # noqa: A002  (the contract's own word)
) -> Run:
    """Declares one run of a workflow.

    Args:
        name: the workflow, the same for every run of it.
        priority: 0–100, higher matters more.
        deadline: Unix time by which the result is wanted.
        id: resumes a run under its earlier id; a new one is made by default.

    Raises:
        ValidationError: (a ValueError) naming the field that is outside the contract's limits.
    """
    # As in `attach`: programs load what they need when the first one is made.
    from llmd_agents.hints import Program

    from .ids import program_id
    from .run import Run

    return Run(Program(id=id or program_id(name), name=name, priority=priority, deadline=deadline))
