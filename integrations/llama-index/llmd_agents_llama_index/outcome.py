"""What becomes of a stretch of a program."""

from typing import Literal


def outcome_of(error: BaseException | None) -> Literal["ok", "error", "cancelled"]:
    """Returns the outcome of what ended with this exception."""
    if error is None:
        return "ok"
    return "error" if isinstance(error, Exception) else "cancelled"
