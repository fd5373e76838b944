"""A stretch of a program that is no workflow: of a query engine, chat engine, synthesizer, LLM or tool."""

from __future__ import annotations

import asyncio
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.tools import BaseTool

from llmd_agents.client import begin_scope, current_run, tool_call

from .place import current_place

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llmd_agents.client import Scope


class Part:
    """What runs within it follows each other, or runs side by side where it overlaps.

    Attributes:
        cancelled: whether the framework tells that it was.
    """

    def __init__(self, scope: Scope, tool: AbstractContextManager[object] | None) -> None:
        self.cancelled = False
        self._scope = scope
        self._tool = tool
        scope.enter()
        if tool is not None:
            tool.__enter__()

    def end(self, result: object, error: BaseException | None) -> None:
        kind = type(error) if error is not None else None
        if self.cancelled or (kind is not None and kind.__name__ == "WaitingForEvent"):
            # A tool that waits for a person is broken off, and called again with the answer.
            kind = asyncio.CancelledError
        if self._tool is not None:
            self._tool.__exit__(kind, None, None)
        self._scope.__exit__(kind, None, None)


def begin_part(instance: Any) -> Part | None:
    """Begins what a span stands for, and enters its scope; None if it is in no program and begins none.

    Args:
        instance: whose method runs; None for a function.
    """
    place = current_place.get()
    if place is not None:
        place.settle(goes_on=True)
    if current_run() is None and not isinstance(instance, (BaseQueryEngine, BaseChatEngine)):
        return None
    thread = _conversation_of(instance) if isinstance(instance, BaseChatEngine) else None
    tool = None
    if isinstance(instance, BaseTool):
        name = instance.metadata.get_name()
        tool = tool_call(name, call_id=place.take_call(name) if place is not None else None)
    return Part(begin_scope(type(instance).__name__, thread=thread), tool)


_conversations: weakref.WeakKeyDictionary[BaseChatEngine, str] = weakref.WeakKeyDictionary()


def _conversation_of(engine: BaseChatEngine) -> str:
    return _conversations.setdefault(engine, uuid.uuid4().hex)
