"""What LangChain and LangGraph tell about a run: in its name, its tags, its metadata and its result."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

GRAPH_STEP: Final = "graph:step:"
MAP_KEY: Final = "map:key:"
SENT: Final = "__pregel_push"
GRAPH: Final = "langgraph"
AGENT: Final = "langchain_create_agent"
FORMATTING: Final = ("prompt", "parser")
"""Types of runs that run no code of the application's, and rarely anything else."""

Metadata = Mapping[str, Any]


def superstep(tags: Sequence[str] | None) -> int | None:
    """Returns the superstep of a graph that a run is a node in; None for what is no node.

    `seq:step` is of no such use: what a node calls has it too.
    """
    for tag in tags or ():
        if tag.startswith(GRAPH_STEP):
            return int(tag.removeprefix(GRAPH_STEP))
    return None


def is_mapped(tags: Sequence[str] | None) -> bool:
    """Returns whether a run is a branch of a RunnableParallel."""
    return any(tag.startswith(MAP_KEY) for tag in tags or ())


def is_sent(metadata: Metadata) -> bool:
    """Returns whether a node runs because of a `Send`, rather than of an edge."""
    return bool((path := metadata.get("langgraph_path")) and path[0] == SENT)


def agent_of(metadata: Metadata, *, node: bool = False) -> str | None:
    """Returns the name of the agent whose run begins, or of the node; None for that of what is around it."""
    name = None
    if metadata.get("ls_integration") == AGENT:
        name = metadata.get("lc_agent_name")
    elif node:
        name = metadata.get("langgraph_node")
    return name if isinstance(name, str) else None


def is_graph(metadata: Metadata) -> bool:
    """Returns whether a run that is part of no other is a graph's."""
    return metadata.get("ls_integration") in (GRAPH, AGENT)


def is_streamed(inputs: object) -> bool:
    """Returns whether a run has begun before its input is there: LangChain gives this in its place."""
    if not isinstance(inputs, dict) or len(inputs) != 1:
        return False
    given = inputs.get("input")
    return isinstance(given, str) and not given


def width(name: str | None, inputs: object) -> int:
    """Returns how many runs a run is about to start side by side, where its name tells; otherwise 0."""
    name = name or ""
    if name.startswith("RunnableParallel<"):
        return name.count(",") + 1
    if name.startswith("RunnableEach<") and isinstance(inputs, list):
        return len(inputs)
    return 0


def sends(result: object) -> list[str]:
    """Returns the nodes that a run's result sends states to; those that only run tools are left out."""
    types = sys.modules.get("langgraph.types")  # whoever sends anything has loaded it
    if types is None:
        return []
    found: list[str] = []
    for one in result if isinstance(result, list | tuple) else (result,):
        if isinstance(one, types.Command):
            found += sends(one.goto) if one.graph is None else []
        elif not isinstance(one, types.Send | str):
            return found
        elif isinstance(one, types.Send) and not _runs_tools(one.arg):
            found.append(one.node)
    return found


def _runs_tools(state: object) -> bool:
    """Returns whether what is sent to a node is no state but calls of tools, as to a ToolNode."""
    if isinstance(state, list):
        return bool(state) and all(map(_runs_tools, state))
    return isinstance(state, dict) and (
        state.get("type") == "tool_call" or state.get("__type") == "tool_call_with_context"
    )


def is_pause(error: BaseException) -> bool:
    """Returns whether a run was not broken off but paused by an `interrupt`, or left by a command."""
    errors = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)
