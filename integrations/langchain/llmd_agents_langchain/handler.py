"""The callback handler: what LangChain tells of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackHandler

from llmd_agents.client import faults

from .marks import FORMATTING, is_graph, is_streamed, width
from .runs import RUNS, Observed, agent_name
from .tested import all_tested

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import LLMResult

_beginning: Final = faults("the beginning of a run gives no hints")
_end: Final = faults("the end of a run gives no hints")


class LlmdAgentsHandler(BaseCallbackHandler):
    """Tells servers how the model calls of the chains and graphs that it is attached to belong together.

        chain.invoke(question, {"callbacks": [LlmdAgentsHandler()]})

    `install` attaches one everywhere. However often it is attached, each run counts once. With a version of
    LangChain or LangGraph that it has not been tested with it warns, and observes nothing.
    """

    # In the task or thread of the run itself, where what it makes current reaches the model call.
    run_inline = True
    raise_error = False

    # What is ignored is asked for with each event.
    ignore_llm: bool = False
    ignore_chain: bool = False
    ignore_agent: bool = False
    ignore_retriever: bool = False
    ignore_chat_model: bool = False
    ignore_retry: bool = True
    ignore_custom_event: bool = True

    def __init__(self) -> None:
        if not all_tested():
            self.ignore_llm = self.ignore_chat_model = self.ignore_chain = True
            self.ignore_agent = self.ignore_retriever = True

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
        with _beginning:
            run = Observed(name, tags, metadata or {})
            waits = run_type in FORMATTING
            if not waits:
                run.width = width(name, inputs)
                waits = is_streamed(inputs) or (parent_run_id is None and is_graph(run.metadata))
            RUNS.chain_began(run_id, parent_run_id, run, waits=waits)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _end:
            RUNS.ended(run_id, outputs)

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
        with _beginning:
            run = Observed(None, tags, metadata or {}, agent_name.get())
            RUNS.model_began(run_id, parent_run_id, run)

    def on_llm_start(self, serialized: dict[str, Any] | None, prompts: Any, **kwargs: Any) -> None:
        self.on_chat_model_start(serialized, prompts, **kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with _end:
            RUNS.model_ended(run_id, response)

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
        with _beginning:
            run = Observed(name or (serialized or {}).get("name"), tags, metadata or {})
            RUNS.tool_began(run_id, parent_run_id, run, tool_call_id)

    def on_retriever_start(self, serialized: dict[str, Any] | None, query: Any, **kwargs: Any) -> None:
        self.on_tool_start(serialized, query, **kwargs)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with _end:
            RUNS.ended(run_id)

    def on_retriever_end(self, documents: Any, **kwargs: Any) -> None:
        self.on_tool_end(documents, **kwargs)

    def _on_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with _end:
            RUNS.failed(run_id, error)

    on_chain_error = on_llm_error = on_tool_error = on_retriever_error = _on_error
