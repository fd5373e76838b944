"""Which runs of workflows belong to one conversation: those that are given the same context."""

from __future__ import annotations

import uuid
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llama_index.core.workflow import Context

conversation: Final[ContextVar[str | None]] = ContextVar("llmd_agents_conversation", default=None)
"""That of the workflow which is about to run."""

_conversations: weakref.WeakKeyDictionary[Context, str] = weakref.WeakKeyDictionary()


def conversation_of(context: Context | None) -> str | None:
    return None if context is None else _conversations.setdefault(context, uuid.uuid4().hex)
