"""Graphs of pydantic-graph whose runs tell servers which steps wait for which."""

from __future__ import annotations

from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic_graph import EndMarker, Graph, GraphRun, Join, Step
from pydantic_graph.step import NodeStep

from llmd_agents.client import begin_scope, faults, is_supported

from .graph_walk import GraphWalk
from .quietly import Quietly

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pydantic_graph import GraphTask, StepContext
    from pydantic_graph.step import StepFunction

    from llmd_agents.client import Scope

VERSIONS = ">=2.68,<3"

G = TypeVar("G", bound=Graph)

_walk: ContextVar[GraphWalk | None] = ContextVar("llmd_agents_graph_walk", default=None)
"""Of the run that starts tasks now."""


def hinted(graph: G) -> G:
    """Returns a graph that runs as this one does, and tells the structure of its runs.

        graph = hinted(builder.build())

    A run is a program, named as the graph is, or a part of the one around it. Steps of the graph that follow
    each other, forks, maps and joins are told as such; what a step does is structured in its turn.
    """
    supported = is_supported("pydantic-graph", VERSIONS, adapter="llmd-agents-pydantic-ai")
    if not supported or isinstance(graph, _HintedGraph):
        return graph
    own = {one.name: getattr(graph, one.name) for one in fields(graph)}
    own["nodes"] = {node_id: _observed(node) for node_id, node in graph.nodes.items()}
    return cast("G", _HintedGraph(**own))


@dataclass(repr=False)
class _HintedGraph(Graph):
    @asynccontextmanager
    async def iter(self, **kwargs: Any) -> AsyncGenerator[GraphRun]:
        walk: GraphWalk | None = None

        def begin() -> Scope:
            nonlocal walk
            root = begin_scope(self.name or "graph")
            walk = GraphWalk(self, root)
            return root

        with Quietly(begin):
            async with super().iter(**kwargs) as run:
                if walk is not None:
                    run.__class__ = _HintedRun  # the graph makes its runs itself
                    cast("_HintedRun", run).walk = walk
                yield run


class _HintedRun(GraphRun):
    walk: GraphWalk

    async def __anext__(self) -> EndMarker | Sequence[GraphTask]:
        # What starts while the run goes on is started in this context.
        token = _walk.set(self.walk)
        try:
            found = await super().__anext__()
        finally:
            _walk.reset(token)
        if not isinstance(found, EndMarker):
            with faults("a graph's tasks are not noted"):
                self.walk.told(found)
        return found


def _observed(node: Any) -> Any:
    if isinstance(node, NodeStep):
        return _HintedNodeStep(node)
    if isinstance(node, Step):
        return Step(id=node.id, call=_in_scope(node), label=node.label)
    if isinstance(node, Join):
        return _observed_join(node)
    return node


class _HintedNodeStep(NodeStep):
    def __init__(self, step: NodeStep) -> None:
        super().__init__(step.node_type, id=step.id, label=step.label)
        self._in_scope = _in_scope(step)

    @property
    def call(self) -> StepFunction:
        return self._in_scope


def _in_scope(step: Step) -> StepFunction:
    async def call(ctx: StepContext) -> Any:
        walk = _walk.get()
        with Quietly(lambda: walk.begin(step.id, ctx.inputs) if walk is not None else None):
            return await step.call(ctx)

    return call


def _observed_join(join: Join) -> Join:
    def reduce(ctx: Any, current: Any, inputs: Any) -> Any:
        value = join.reduce(ctx, current, inputs)
        walk = _walk.get()
        if walk is not None:
            with faults("what a join takes in is not noted"):
                walk.reduced(join.id, inputs, value)
        return value

    return Join(
        id=join.id,
        reducer=reduce,
        initial_factory=join.initial_factory,
        parent_fork_id=join.parent_fork_id,
        preferred_parent_fork=join.preferred_parent_fork,
    )
