"""Which runs are one program because they are one conversation."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_ai import RunContext


def thread_of(ctx: RunContext[Any]) -> str | None:
    """Returns the id of the conversation that a run is part of; None if it is not known to be part of one.

    Every run has such an id. It tells of other runs if the run's messages bear it too, or the application has
    chosen it: those that the framework makes up are UUIDs of version 7.
    """
    found = ctx.conversation_id
    if found is None:
        return None
    goes_on = any(message.conversation_id == found for message in reversed(ctx.messages))
    return found if goes_on or not _is_made_up(found) else None


def _is_made_up(conversation_id: str) -> bool:
    try:
        return uuid.UUID(conversation_id).version == 7
    except ValueError:
        return False
