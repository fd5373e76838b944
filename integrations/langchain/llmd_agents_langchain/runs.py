"""The runs of LangChain that are observed, and the scopes that stand for them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from langchain_core.runnables.config import var_child_runnable_config

from llmd_agents.client import begin_scope, current_run, current_scope, tool_call

from .graph import Graph
from .marks import agent_of, is_mapped, is_pause, is_sent, sends, superstep
from .step_note import note_step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from langchain_core.outputs import LLMResult

    from llmd_agents.client import FanOut, Scope

    from .marks import Metadata

Outcome: TypeAlias = Literal["ok", "error", "cancelled", "abandoned"]

MAPPED: Final = "mapped"
"""The phase of a RunnableParallel's branches, where nothing tells how many there are."""

agent_name: ContextVar[str | None] = ContextVar("llmd_agents_langchain_agent", default=None)
"""What an agent's middleware calls the agent whose model call runs."""


RUNS_MAX: Final = 16_384
"""Of more runs that are not over, those that began first are given up: their end was never told."""


@dataclass(eq=False, slots=True)
class Observed:
    """One run.

    Attributes:
        name: as LangChain tells it; so are its tags, metadata, and the agent.
        width: how many runs it is about to start side by side; 0 if that is not known.
        outer: the run that it is part of.
        step: the superstep of a graph that it is a node in.
        node: the innermost node of a graph that it is part of.
        scope: None until something runs within it, where it waits for that.
        call_in: the scope that it is a model call in, if it needs none of its own.
        of: the fan-out that it belongs to.
        fans_out: the one that the runs in it belong to.
        graph: what it is, once a node of its has begun.
        node_of: the graph that it is a node of.
        sent: what it sends, as a node.
        began: the scope's frontier when it began.
        call: of a tool.
    """

    name: str | None
    tags: Sequence[str] | None
    metadata: Metadata
    agent: str | None = None
    width: int = 0
    outer: Observed | None = None
    step: int | None = None
    node: Observed | None = None
    scope: Scope | None = None
    call_in: Scope | None = None
    of: FanOut | None = None
    fans_out: FanOut | None = None
    graph: Graph | None = None
    node_of: Graph | None = None
    sent: Sequence[str] = ()
    began: tuple[str, ...] = ()
    call: AbstractContextManager[Any] | None = None

    def follows(self) -> bool:
        """Returns whether it is no node of a graph, and no branch of what runs side by side."""
        around = self.outer
        return self.step is None and not is_mapped(self.tags) and (around is None or around.fans_out is None)

    def put_within(self, outer: Observed | None) -> None:
        self.outer = outer
        self.step = superstep(self.tags)
        if outer is not None:
            self.node = outer if outer.step is not None else outer.node


class Runs:
    """What is known of the runs that are not over. Each is told of any number of times, and counts once."""

    def __init__(self) -> None:
        self._lock = RLock()
        # By the number that an id is: the hash of a UUID is computed in Python.
        self._runs: OrderedDict[int, Observed] = OrderedDict()
        self._scopes: set[Scope] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def chain_began(self, run_id: UUID, parent_id: UUID | None, run: Observed, *, waits: bool) -> None:
        """A chain begins.

        Args:
            waits: whether it only waits for what runs within it, or gives it its input. What runs in its
                context then is none of its own code, but perhaps whoever reads its stream.
        """
        if run_id.int in self._runs:
            return
        run.put_within(self._outer(parent_id))
        if waits:
            self._keep(run_id, run)
        else:
            self._enter(run_id, run)

    def model_began(self, run_id: UUID, parent_id: UUID | None, run: Observed) -> None:
        """A model that is called outside of chains is left to the client: it knows as much."""
        outer = self._outer(parent_id)
        if outer is None or run_id.int in self._runs:
            return
        run.put_within(outer)
        around = outer.scope
        if around is not None and run.follows() and around.begin_call(run.agent or agent_of(run.metadata)):
            self._keep(run_id, run)
            run.call_in = around
        else:
            around = self._enter(run_id, run)
        run.began = around.frontier
        part: Observed | None = run
        while part is not None:
            if part.of is not None:
                part.of.declare()
            part = part.outer

    def tool_began(self, run_id: UUID, parent_id: UUID | None, run: Observed, call_id: str | None) -> None:
        """A tool or retriever that is called outside of programs is nobody's."""
        if run_id.int in self._runs:
            return
        outer = self._outer(parent_id)
        if outer is None and current_run() is None:
            return
        run.put_within(outer)
        self._enter(run_id, run)
        run.call = tool_call(run.name or "unnamed", call_id=call_id)
        run.call.__enter__()

    def ended(self, run_id: UUID, result: object = None) -> None:
        run = self._runs.pop(run_id.int, None)
        if run is None:
            return
        node = run.node if run.step is None else run
        if node is not None and (found := sends(result)):
            node.sent = found
        self._end(run, "ok", None)

    def model_ended(self, run_id: UUID, result: LLMResult) -> None:
        run = self._runs.pop(run_id.int, None)
        if run is None:
            return
        self._end(run, "ok", None)
        scope = run.scope or run.call_in
        if scope is not None and (frontier := scope.frontier) != run.began:
            note_step(scope.run, frontier[-1], result)

    def failed(self, run_id: UUID, error: BaseException) -> None:
        run = self._runs.pop(run_id.int, None)
        if run is None:
            return
        if is_pause(error):
            # A tool that is paused has not failed, nor shown how long it takes.
            self._end(run, "ok", asyncio.CancelledError)
        else:
            self._end(run, "error" if isinstance(error, Exception) else "cancelled", type(error))

    def knows(self, scope: Scope | None) -> bool:
        """Returns whether a scope stands for a run."""
        return scope is not None and scope in self._scopes

    def _outer(self, parent_id: UUID | None) -> Observed | None:
        """Returns the run that a new one is part of: that LangChain names, or whose code starts it."""
        if parent_id is not None and (named := self._runs.get(parent_id.int)) is not None:
            return named
        config = var_child_runnable_config.get()
        around = None if config is None else getattr(config.get("callbacks"), "parent_run_id", None)
        return None if around is None else self._runs.get(around.int)

    def _enter(self, run_id: UUID, run: Observed) -> Scope:
        """Makes a run that of the code that this context runs from here on."""
        self._keep(run_id, run)
        scope = self._scope(run)
        scope.enter()
        return scope

    def _keep(self, run_id: UUID, run: Observed) -> None:
        self._runs[run_id.int] = run
        if len(self._runs) > RUNS_MAX:
            self._end_scope(self._runs.popitem(last=False)[1], "abandoned")

    def _scope(self, run: Observed) -> Scope:
        """Returns a run's scope, which is opened now if the run has waited until now."""
        if run.scope is not None:
            return run.scope
        with self._lock:
            if run.scope is None:
                scope = self._begin(run) if run.outer is None else self._open(run, run.outer)
                if run.width:
                    run.fans_out = scope.expect_fan_out(run.width)
                self._scopes.add(scope)
                run.scope = scope
            return run.scope

    def _begin(self, run: Observed) -> Scope:
        """Begins the scope of a run that is part of no other."""
        # All runs of a batch begin in one context, and whoever reads a stream runs in the stream's.
        while self._scopes and (beside := current_scope()) is not None and beside in self._scopes:
            beside.leave()
            if current_scope() is beside:
                break
        thread = run.metadata.get("thread_id")
        return begin_scope(
            run.name or "unnamed",
            agent=agent_of(run.metadata),
            thread=None if thread is None else str(thread),
        )

    def _open(self, run: Observed, outer: Observed) -> Scope:
        """Opens the scope of a run within another."""
        around = self._scope(outer)
        agent = run.agent or agent_of(run.metadata, node=run.step is not None)
        if run.step is not None:
            run.node_of = outer.graph = outer.graph or Graph(around)
            scope, run.of = run.node_of.open_node(run.step, sent=is_sent(run.metadata), agent=agent)
            return scope
        run.of = outer.fans_out
        return around.open(agent=agent, of=run.of, phase=MAPPED if is_mapped(run.tags) else None)

    def _end(self, run: Observed, outcome: Outcome, kind: type[BaseException] | None) -> None:
        if run.call is not None:
            run.call.__exit__(kind, None, None)
        self._end_scope(run, outcome)
        if run.node_of is not None:
            run.node_of.node_ended(run.sent)

    def _end_scope(self, run: Observed, outcome: Outcome) -> None:
        if run.call_in is not None:
            run.call_in.end_call()
        if run.scope is not None:
            run.scope.end(outcome)
            self._scopes.discard(run.scope)


RUNS: Final = Runs()
"""Those of this process, whichever handlers tell of them."""
