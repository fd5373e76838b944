"""A stretch of a program that is no workflow: of a query engine, chat engine, synthesizer, LLM or tool."""

from __future__ import annotations

import asyncio
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.tools import BaseTool

from llmd_agents.client import begin_scope, current_run, tool_call

from .place import current_place

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llmd_agents.client import Scope

    from .place import Place

ONE_CALL: Final = BaseLLM.__abstractmethods__ | FunctionCallingLLM.__abstractmethods__
"""What each LLM has a way of its own for: a call, or what prepares one."""


class Part:
    """What runs within it follows each other, or runs side by side where it overlaps.

    Attributes:
        cancelled: whether the framework tells that it was.

    Args:
        scope: None if what it is in has no other parts.
    """

    def __init__(self, scope: Scope | None, tool: AbstractContextManager[object] | None) -> None:
        self.cancelled = False
        self._scope = scope
        self._tool = tool
        if scope is not None:
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
        if self._scope is not None:
            self._scope.__exit__(kind, None, None)


def begin_part(method: str, instance: Any, around: object) -> Part | None:
    """Begins what a span stands for, and enters its scope; None if it needs none, or is in no program.

    Args:
        method: that runs.
        instance: whose method it is; None for a function.
        around: what the span around it stands for.
    """
    place = current_place.get()
    if place is not None:
        place.begins()
        if place is around and place.run.takes_turns and method in ONE_CALL and isinstance(instance, BaseLLM):
            return None
    if current_run() is None and not isinstance(instance, (BaseQueryEngine, BaseChatEngine)):
        return None
    if isinstance(instance, BaseTool):
        return _begin_tool(instance, place)
    thread = _conversation_of(instance) if isinstance(instance, BaseChatEngine) else None
    return Part(begin_scope(type(instance).__name__, thread=thread), None)


def _begin_tool(tool: BaseTool, place: Place | None) -> Part:
    name = tool.metadata.get_name()
    call_id = place.take_call(name) if place is not None else None
    alone = call_id is not None and place is not None and place.run.takes_turns
    return Part(None if alone else begin_scope(name), tool_call(name, call_id=call_id))


_conversations: weakref.WeakKeyDictionary[BaseChatEngine, str] = weakref.WeakKeyDictionary()


def _conversation_of(engine: BaseChatEngine) -> str:
    return _conversations.setdefault(engine, uuid.uuid4().hex)
