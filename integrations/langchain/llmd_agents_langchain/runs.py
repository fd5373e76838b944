"""The runs of LangChain that are observed, and the scopes that stand for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from weakref import WeakSet

from langchain_core.runnables.config import var_child_runnable_config

from llmd_agents.client import begin_scope, current_run, current_scope, tool_call

from .graph import Graph
from .marks import agent_of, is_mapped, is_pause, is_sent, sends, superstep
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


RUNS_MAX: Final = 16_384
"""Of more runs that are not over, those that began first are given up: their end was never told."""


@dataclass(frozen=True, slots=True)
class Told:
    """What LangChain tells of a run when it begins."""

    name: str | None = None
    tags: Sequence[str] | None = None
    metadata: Metadata = field(default_factory=dict)
    agent: str | None = None
    width: int = 0


@dataclass(eq=False)
class Observed:
    """One run.

    Attributes:
        outer: the run that it is part of.
        scope: None until something runs within it, where it waits for that.
        of: the fan-out that it belongs to.
        fans_out: the one that the runs in it belong to.
        graph: what it is, once a node of its has begun.
        node_of: the graph that it is a node of.
        sent: what it sends, as a node.
        began: the scope's frontier when it began.
        call: of a tool.
    """

    told: Told
    outer: Observed | None = None
    scope: Scope | None = None
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
        self._lock = RLock()
        self._runs: OrderedDict[UUID | None, Observed] = OrderedDict()
        self._scopes: WeakSet[Scope] = WeakSet()

    def __len__(self) -> int:
        return len(self._runs)

    def chain_began(self, run_id: UUID, parent_id: UUID | None, told: Told, *, waits: bool) -> None:
        """A chain begins.

        Args:
            waits: whether it only waits for what runs within it, or gives it its input. What runs in its
                context then is none of its own code, but perhaps whoever reads its stream.
        """
        if run_id in self._runs:
            return
        run = Observed(told, self._outer(parent_id))
        if waits:
            self._keep(run_id, run)
        else:
            self._enter(run_id, run)

    def model_began(self, run_id: UUID, parent_id: UUID | None, told: Told) -> None:
        """A model that is called outside of chains is left to the client: it knows as much."""
        outer = self._outer(parent_id)
        if outer is None or run_id in self._runs:
            return
        run = Observed(told, outer)
        scope = self._enter(run_id, run)
        run.began = scope.frontier
        for part in run.up():
            if part.of is not None:
                part.of.declare()

    def tool_began(
        self, run_id: UUID, parent_id: UUID | None, told: Told, name: str, call_id: str | None
    ) -> None:
        """A tool or retriever that is called outside of programs is nobody's."""
        if run_id in self._runs:
            return
        outer = self._outer(parent_id)
        if outer is None and current_run() is None:
            return
        run = Observed(told, outer)
        self._enter(run_id, run)
        run.call = tool_call(name, call_id=call_id)
        run.call.__enter__()

    def ended(self, run_id: UUID, result: object = None) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        if found := sends(result):
            node = next((part for part in run.up() if part.node_of is not None), None)
            if node is not None:
                node.sent = found
        self._end(run_id, run, "ok", None)

    def model_ended(self, run_id: UUID, result: LLMResult) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        if run.scope is not None and run.scope.frontier != run.began:
            note_step(run.scope.run, run.scope.frontier[-1], result)
        self._end(run_id, run, "ok", None)

    def failed(self, run_id: UUID, error: BaseException) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        if is_pause(error):
            # A tool that is paused has not failed, nor shown how long it takes.
            self._end(run_id, run, "ok", asyncio.CancelledError)
        else:
            self._end(run_id, run, "error" if isinstance(error, Exception) else "cancelled", type(error))

    def knows(self, scope: Scope | None) -> bool:
        """Returns whether a scope stands for a run."""
        return scope is not None and scope in self._scopes

    def _outer(self, parent_id: UUID | None) -> Observed | None:
        """Returns the run that a new one is part of: that LangChain names, or whose code starts it."""
        if parent_id is not None and (named := self._runs.get(parent_id)) is not None:
            return named
        config = var_child_runnable_config.get()
        if config is None:
            return None
        return self._runs.get(getattr(config.get("callbacks"), "parent_run_id", None))

    def _enter(self, run_id: UUID, run: Observed) -> Scope:
        """Makes a run that of the code that this context runs from here on."""
        self._keep(run_id, run)
        scope = self._scope(run)
        scope.enter()
        return scope

    def _keep(self, run_id: UUID, run: Observed) -> None:
        with self._lock:
            self._runs[run_id] = run
            given_up = self._runs.popitem(last=False)[1] if len(self._runs) > RUNS_MAX else None
        if given_up is not None and given_up.scope is not None:
            given_up.scope.end("abandoned")

    def _scope(self, run: Observed) -> Scope:
        """Returns a run's scope, which is opened now if the run has waited until now."""
        with self._lock:
            if run.scope is None:
                run.scope = self._begin(run.told) if run.outer is None else self._open(run, run.outer)
                run.fans_out = run.scope.expect_fan_out(run.told.width)
                self._scopes.add(run.scope)
            return run.scope

    def _begin(self, told: Told) -> Scope:
        """Begins the scope of a run that is part of no other."""
        # All runs of a batch begin in one context, and whoever reads a stream runs in the stream's.
        while (beside := current_scope()) is not None and self.knows(beside):
            beside.leave()
            if current_scope() is beside:
                break
        thread = told.metadata.get("thread_id")
        return begin_scope(
            told.name or "unnamed",
            agent=agent_of(told.metadata, node=False),
            thread=None if thread is None else str(thread),
        )

    def _open(self, run: Observed, outer: Observed) -> Scope:
        """Opens the scope of a run within another."""
        around, told = self._scope(outer), run.told
        step = superstep(told.tags)
        agent = told.agent or agent_of(told.metadata, node=step is not None)
        if step is not None:
            run.node_of = outer.graph = outer.graph or Graph(around)
            scope, run.of = run.node_of.open_node(step, sent=is_sent(told.metadata), agent=agent)
            return scope
        run.of = outer.fans_out
        return around.open(agent=agent, of=run.of, phase=MAPPED if is_mapped(told.tags) else None)

    def _end(self, run_id: UUID, run: Observed, outcome: Outcome, kind: type[BaseException] | None) -> None:
        self._runs.pop(run_id, None)
        if run.call is not None:
            run.call.__exit__(kind, None, None)
        if run.scope is not None:
            run.scope.end(outcome)
        if run.node_of is not None:
            run.node_of.node_ended(run.sent)


RUNS: Final = Runs()
"""Those of this process, whichever handlers tell of them."""
