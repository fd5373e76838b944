"""What the client knows of a step, in the result of the model's run."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from langchain_core.outputs import LLMResult

    from llmd_agents.client import Run

KEY: Final = "llmd_agents"
LATEST: Final = 1000
"""Steps of a program that are looked through, the latest first."""


def note_step(run: Run, step: str, result: LLMResult) -> None:
    """Adds the program, the step and the server's answer to its hints to the messages' response metadata."""
    for record in islice(reversed(run.history.steps), LATEST):
        if record.step == step:
            break
    else:
        return
    note: dict[str, Any] = {"program": run.id, "step": step}
    if record.ack is not None:
        note["ack"] = record.ack.model_dump(mode="json", exclude_defaults=True)
    for choices in result.generations:
        for one in choices:
            message = getattr(one, "message", None)
            if message is not None:
                message.response_metadata[KEY] = note
