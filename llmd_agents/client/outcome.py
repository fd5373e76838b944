"""What becomes of a block of the application's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmd_agents.hints import Outcome


def outcome_of(error: type[BaseException] | None) -> Outcome:
    """Returns the outcome of a block that was left with this exception.

    What is no `Exception` (CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit) stops the code from
    outside: the block is cancelled.
    """
    if error is None:
        return "ok"
    return "error" if issubclass(error, Exception) else "cancelled"
