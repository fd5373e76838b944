"""The runs of LangChain that are observed, and the scopes that stand for them."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

from langchain_core.runnables.config import var_child_runnable_config

from llmd_agents.client import OpenScopes, begin_scope, current_meta, current_scope, tool_call

from .graph import Graph
from .marks import agent_of, is_mapped, is_pause, is_sent, sends, superstep, width
from .step_note import note_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from langchain_core.outputs import LLMResult

    from llmd_agents.client import FanOut, Scope

    from .marks import Metadata

Outcome: TypeAlias = Literal["ok", "error", "cancelled"]

MAPPED: Final = "mapped"
"""The phase of a RunnableParallel's branches, where nothing tells how many there are."""

agent_name: ContextVar[str | None] = ContextVar("llmd_agents_langchain_agent", default=None)
"""What an agent's middleware calls the agent whose model call runs."""


@dataclass(eq=False)
class Observed:
    """One run.

    Attributes:
        outer: the run that it is part of.
        of: the fan-out that it belongs to.
        fans_out: the one that the runs in it belong to.
        graph: what it is, once a node of its has begun.
        node_of: the graph that it is a node of.
        sent: what it sends, as a node.
        began: the scope's frontier when it began.
        call: of a tool.
    """

    scope: Scope
    outer: Observed | None = None
    of: FanOut | None = None
    fans_out: FanOut | None = None
    graph: Graph | None = None
    node_of: Graph | None = None
    sent: list[str] = field(default_factory=list)
    began: tuple[str, ...] = ()
    call: AbstractContextManager[Any] | None = None

    def up(self) -> Iterator[Observed]:
        """Yields the run and what it is part of, from the inside out."""
        run: Observed | None = self
        while run is not None:
            yield run
            run = run.outer


class Runs:
    """What is known of the runs that are not over. Each is told of any number of times, and counts once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._scopes = OpenScopes()
        self._observed: WeakKeyDictionary[Scope, Observed] = WeakKeyDictionary()

    def chain_began(
        self,
        run_id: UUID,
        parent_id: UUID | None,
        name: str | None,
        inputs: object,
        tags: Sequence[str] | None,
        metadata: Metadata,
    ) -> None:
        if self._scopes.get(run_id) is not None:
            return
        outer = self._outer(parent_id)
        run = self._begin(name, metadata) if outer is None else self._open(outer, tags, metadata)
        run.fans_out = run.scope.expect_fan_out(width(name, inputs))
        self._enter(run_id, run)

    def model_began(
        self, run_id: UUID, parent_id: UUID | None, tags: Sequence[str] | None, metadata: Metadata
    ) -> None:
        """A model that is called outside of chains is left to the client: it knows as much."""
        outer = self._outer(parent_id)
        if outer is None or self._scopes.get(run_id) is not None:
            return
        run = self._open(outer, tags, metadata, agent=agent_name.get())
        for part in run.up():
            if part.of is not None:
                part.of.declare()
        run.began = run.scope.frontier
        self._enter(run_id, run)

    def tool_began(
        self,
        run_id: UUID,
        parent_id: UUID | None,
        name: str,
        call_id: str | None,
        tags: Sequence[str] | None,
        metadata: Metadata,
    ) -> None:
        """A tool or retriever that is called outside of programs is nobody's."""
        if self._scopes.get(run_id) is not None:
            return
        outer = self._outer(parent_id)
        if outer is None and not current_meta():
            return
        run = self._begin(name, metadata) if outer is None else self._open(outer, tags, metadata)
        self._enter(run_id, run)
        run.call = tool_call(name, call_id=call_id)
        run.call.__enter__()

    def ended(self, run_id: UUID, result: object = None) -> None:
        run = self._known(run_id)
        if run is None:
            return
        if found := sends(result):
            node = next((part for part in run.up() if part.node_of is not None), None)
            if node is not None:
                node.sent = found
        self._end(run_id, run, None)

    def model_ended(self, run_id: UUID, result: LLMResult) -> None:
        run = self._known(run_id)
        if run is None:
            return
        if run.scope.frontier != run.began:
            note_step(run.scope.run, run.scope.frontier[-1], result)
        self._end(run_id, run, None)

    def failed(self, run_id: UUID, error: BaseException) -> None:
        run = self._known(run_id)
        if run is not None:
            self._end(run_id, run, error)

    def knows(self, scope: Scope | None) -> bool:
        """Returns whether a scope stands for a run."""
        return scope is not None and scope in self._observed

    def _known(self, run_id: UUID | None) -> Observed | None:
        scope = self._scopes.get(run_id) if run_id is not None else None
        return None if scope is None else self._observed.get(scope)

    def _outer(self, parent_id: UUID | None) -> Observed | None:
        """Returns the run that a new one is part of: that LangChain names, or whose code starts it."""
        if (named := self._known(parent_id)) is not None:
            return named
        config = var_child_runnable_config.get()
        return (
            None if config is None else self._known(getattr(config.get("callbacks"), "parent_run_id", None))
        )

    def _begin(self, name: str | None, metadata: Metadata) -> Observed:
        """Begins a run that is part of no other."""
        # All runs of a batch begin in one context, and whoever reads a stream runs in the stream's.
        while (beside := current_scope()) is not None and self.knows(beside):
            beside.leave()
            if current_scope() is beside:
                break
        thread = metadata.get("thread_id")
        agent = agent_of(metadata, node=False)
        return Observed(
            begin_scope(name or "unnamed", agent=agent, thread=None if thread is None else str(thread))
        )

    def _open(
        self, outer: Observed, tags: Sequence[str] | None, metadata: Metadata, agent: str | None = None
    ) -> Observed:
        step = superstep(tags)
        agent = agent or agent_of(metadata, node=step is not None)
        if step is not None:
            with self._lock:
                graph = outer.graph = outer.graph or Graph(outer.scope)
            scope, of = graph.open_node(step, sent=is_sent(metadata), agent=agent)
            return Observed(scope, outer, of, node_of=graph)
        if outer.fans_out is not None:
            return Observed(outer.scope.open(agent=agent, of=outer.fans_out), outer, outer.fans_out)
        return Observed(outer.scope.open(agent=agent, phase=MAPPED if is_mapped(tags) else None), outer)

    def _enter(self, run_id: UUID, run: Observed) -> None:
        self._observed[run.scope] = run
        self._scopes.put(run_id, run.scope)
        run.scope.enter()

    def _end(self, run_id: UUID, run: Observed, error: BaseException | None) -> None:
        kind = type(error) if error is not None else None
        outcome: Outcome = "ok" if error is None else "error" if isinstance(error, Exception) else "cancelled"
        if error is not None and is_pause(error):
            outcome = "ok"
            kind = asyncio.CancelledError  # a tool that is paused has not failed, nor shown how long it takes
        if run.call is not None:
            run.call.__exit__(kind, None, None)
        self._scopes.end(run_id, outcome)
        self._observed.pop(run.scope, None)
        if run.node_of is not None:
            run.node_of.node_ended(run.sent)


RUNS: Final = Runs()
"""Those of this process, whichever handlers tell of them."""
