"""One run of a graph: which scopes each of its tasks goes on from.

The graph's runner tells of a task before it starts: the node, its inputs, and the *stack* of forks that it
is within. Tasks of one stack follow each other. A stack that is new goes on from where the one around it was.
What comes after a join goes on from all that the join has taken in; if that is a step, the runner starts it
without telling, so it is known by its inputs, which are what the join came to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_graph import Join, Step
from pydantic_graph.paths import DestinationMarker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_graph import Graph, GraphTask
    from pydantic_graph.id_types import ForkStack, NodeID

    from llmd_agents.client import FanOut, Scope


@dataclass
class _Awaited:
    """A task that the runner has told of, and that has not started."""

    inputs: Any
    stack: ForkStack
    after: tuple[Scope, ...]
    of: FanOut | None = None


@dataclass
class _Joining:
    """One run of a join.

    Attributes:
        stack: of what comes after it.
        after: the scopes that it has taken in.
        value: what it has come to so far.
    """

    stack: ForkStack
    after: dict[Scope, None] = field(default_factory=dict)
    value: Any = None


class GraphWalk:
    """Lives as long as the run does.

    Args:
        graph: the one that runs.
        root: the scope of the run.
    """

    def __init__(self, graph: Graph, root: Scope) -> None:
        self._graph = graph
        self._root = root
        self._awaited: defaultdict[NodeID, list[_Awaited]] = defaultdict(list)
        self._joining: dict[tuple[NodeID, str], _Joining] = {}
        self._last: dict[ForkStack, tuple[Scope, ...]] = {}

    def told(self, tasks: Sequence[GraphTask]) -> None:
        """Takes note of tasks that are about to start, before any of them does."""
        forks: defaultdict[str, list[GraphTask]] = defaultdict(list)
        for task in tasks:
            forks[task.fork_stack[-1].node_run_id].append(task)
        for of_fork in forks.values():
            fan_out = self._fan_out(of_fork)
            for task in of_fork:
                if isinstance(self._graph.nodes[task.node_id], Step | Join):
                    after = self._behind(task.fork_stack)
                    awaited = _Awaited(task.inputs, task.fork_stack, after, fan_out)
                    self._awaited[task.node_id].append(awaited)

    def begin(self, step: NodeID, inputs: Any) -> Scope:
        """Returns the scope of a step that starts now."""
        task = self._take(step, inputs)
        if task is None:
            stack = self._after_join(step, inputs)
            task = _Awaited(inputs, stack, self._behind(stack))
        scope = self._root.follow(*task.after, of=task.of)
        self._last[task.stack] = (scope,)
        return scope

    def reduced(self, join: NodeID, inputs: Any, value: Any) -> None:
        """Takes note of what a join has taken in, and of what it has come to by that."""
        task = self._take(join, inputs)
        if task is None:
            return
        fork = self._graph.get_parent_fork(join).fork_id
        depth = max(at for at, item in enumerate(task.stack) if item.fork_id == fork)
        key = join, str(task.stack[depth].node_run_id)
        joining = self._joining.get(key)
        if joining is None:
            final = self._graph.is_final_join(join)
            joining = self._joining[key] = _Joining(task.stack[: depth + 1] if final else task.stack)
        joining.after.update(dict.fromkeys(task.after))
        joining.value = value
        self._last.pop(task.stack, None)
        self._last[joining.stack] = tuple(joining.after)

    def _take(self, node: NodeID, inputs: Any) -> _Awaited | None:
        # Tasks start in the order in which they were told of, so the first with these inputs is meant.
        awaited = self._awaited[node]
        for at, task in enumerate(awaited):
            if task.inputs is inputs:
                return awaited.pop(at)
        return None

    def _after_join(self, step: NodeID, inputs: Any) -> ForkStack:
        before = [key for key in self._joining if self._leads_to(key[0], step)]
        if not before:
            return next(reversed(self._last), ())
        # A join's path may make another value of what it came to.
        key = next((key for key in before if self._joining[key].value is inputs), before[0])
        return self._joining.pop(key).stack

    def _leads_to(self, join: NodeID, step: NodeID) -> bool:
        end = self._graph.edges_by_source[join][0].items[-1]
        return isinstance(end, DestinationMarker) and end.destination_id == step

    def _behind(self, stack: ForkStack) -> tuple[Scope, ...]:
        for depth in range(len(stack), 0, -1):
            if stack[:depth] in self._last:
                return self._last[stack[:depth]]
        return ()

    def _fan_out(self, tasks: Sequence[GraphTask]) -> FanOut | None:
        """Declares a fork that leads straight to steps."""
        stack = tasks[0].fork_stack
        after = self._behind(stack)
        if stack in self._last or len(after) > 1:
            return None
        if not all(isinstance(self._graph.nodes[task.node_id], Step) for task in tasks):
            return None
        return (after[0] if after else self._root).fan_out(len(tasks), str(stack[-1].fork_id))
