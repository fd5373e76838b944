"""The callback handler: what LangChain tells of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler

from .marks import FORMATTING, is_graph, is_streamed, width
from .quietly import quietly
from .runs import RUNS, Told, agent_name
from .tested import all_tested

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import LLMResult


class LlmdAgentsHandler(BaseCallbackHandler):
    """Tells servers how the model calls of the chains and graphs that it is attached to belong together.

        chain.invoke(question, {"callbacks": [LlmdAgentsHandler()]})

    `install` attaches one everywhere. However often it is attached, each run counts once. With a version of
    LangChain or LangGraph that it has not been tested with it warns, and observes nothing.
    """

    # In the task or thread of the run itself, where what it makes current reaches the model call.
    run_inline = True
    raise_error = False

    def __init__(self) -> None:
        self._ignores = not all_tested()

    @property
    def ignore_llm(self) -> bool:
        return self._ignores

    ignore_chain = ignore_agent = ignore_retriever = ignore_chat_model = ignore_llm
    ignore_retry = ignore_custom_event = property(lambda self: True)

    @quietly
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        run_type: str | None = None,
        **kwargs: Any,
    ) -> None:
        told = Told(name, tags, metadata or {}, width=width(name, inputs))
        waits = (
            run_type in FORMATTING
            or is_streamed(inputs)
            or (parent_run_id is None and is_graph(told.metadata))
        )
        RUNS.chain_began(run_id, parent_run_id, told, waits=waits)

    @quietly
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        RUNS.ended(run_id, outputs)

    @quietly
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        RUNS.model_began(run_id, parent_run_id, Told(None, tags, metadata or {}, agent_name.get()))

    def on_llm_start(self, serialized: dict[str, Any] | None, prompts: Any, **kwargs: Any) -> None:
        self.on_chat_model_start(serialized, prompts, **kwargs)

    @quietly
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        RUNS.model_ended(run_id, response)

    @quietly
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        tool_call_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        called = name or (serialized or {}).get("name") or "unnamed"
        told = Told(called, tags, metadata or {})
        RUNS.tool_began(run_id, parent_run_id, told, called, tool_call_id)

    def on_retriever_start(self, serialized: dict[str, Any] | None, query: Any, **kwargs: Any) -> None:
        self.on_tool_start(serialized, query, **kwargs)

    @quietly
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        RUNS.ended(run_id)

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.on_tool_end(documents, **kwargs)

    @quietly
    def _on_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        RUNS.failed(run_id, error)

    on_chain_error = on_llm_error = on_tool_error = on_retriever_error = _on_error
