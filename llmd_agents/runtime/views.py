"""What `GET /v1/agent/programs/{id}` and `GET /v1/agent/engines` show, as JSON values."""

from typing import Any

from .engine_state import EngineState
from .graph import BranchRecord, ForkRecord, ProgramRecord, StepRecord, ToolCall
from .runtime import Runtime

RESIDENCY_BRANCHES_MAX = 256
"""Branches, the newest, whose residency is looked up for a view."""


def program_view(runtime: Runtime, tenant: str, program: ProgramRecord) -> dict[str, Any]:
    """Returns the program's graph and where its context is. Times are Unix seconds, sizes bytes or tokens."""
    declared = program.declared
    unseen = len(program.branches) - RESIDENCY_BRANCHES_MAX
    return {
        "id": declared.id,
        "name": declared.name,
        "priority": declared.priority,
        "status": program.outcome or "running",
        "started_at": program.started_at,
        "seen_at": program.seen_at,
        "forgotten_steps": program.forgotten,
        "superseded": program.superseded,
        "steps": [_step(record) for record in program.steps.values()],
        "edges": [list(edge) for edge in program.edges()],
        "branches": [
            _branch(runtime, tenant, branch, residency=index >= unseen)
            for index, branch in enumerate(program.branches.values())
        ],
        "forks": [_fork(fork) for fork in program.forks.values()],
        "tools": [_tool(call) for call in program.tools],
        "directives": program.directives,
    }


def engines_view(runtime: Runtime) -> list[dict[str, Any]]:
    """Returns the state of each engine as this runtime sees it."""
    return [
        {
            "name": name,
            "up": state.up,
            "directives": list(state.kv.directives) if state.kv is not None else [],
            "running": state.running,
            "queued_bytes": state.queued,
            "requests": state.requests,
            "failed": state.failed,
            "prompt_tokens": state.prompt_tokens,
            "cached_tokens": state.cached_tokens,
            "load": _load(state),
        }
        for name, state in runtime.engines.items()
    ]


def _load(state: EngineState) -> dict[str, Any] | None:
    load = state.load
    if load is None:
        return None
    return {
        "read_at": state.load_at,
        "running": load.running,
        "waiting": load.waiting,
        "cache_usage": load.cache_usage,
        "others": state.others(state.load_at).running,
    }


def _step(record: StepRecord) -> dict[str, Any]:
    declared = record.declared
    return {
        "id": declared.id,
        "branch": declared.branch,
        "kind": declared.kind,
        "agent": declared.agent,
        "parents": list(declared.parents),
        "fork": declared.fork.model_dump() if declared.fork else None,
        "loop": declared.loop.model_dump() if declared.loop else None,
        "status": record.status,
        "engine": record.engine,
        "attempts": record.attempts,
        "arrived_at": record.arrived_at,
        "finished_at": record.finished_at,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
    }


def _branch(runtime: Runtime, tenant: str, branch: BranchRecord, *, residency: bool) -> dict[str, Any]:
    context = runtime.contexts(tenant).get(branch.digest) if branch.digest else None
    holders = {}
    for engine, held in runtime.contexts(tenant).resident(branch.digest).items() if residency else ():
        residence = held.holders[engine]
        holders[engine] = {
            "bytes": held.depth,
            "tiers": residence.tiers,
            "certain": residence.certain,
        }
    return {
        "id": branch.id,
        "fork": branch.fork,
        "index": branch.index,
        "steps": branch.steps,
        "status": branch.outcome or "open",
        "context_bytes": context.depth if context else None,
        "residency": holders if residency else None,
    }


def _fork(fork: ForkRecord) -> dict[str, Any]:
    return {
        "id": fork.id,
        "name": fork.name,
        "width": fork.width,
        "branch": fork.branch,
        "parents": list(fork.parents),
        "branches": [fork.branches[index] for index in sorted(fork.branches)],
        "joined": fork.joined,
    }


def _tool(call: ToolCall) -> dict[str, Any]:
    return {
        "call": call.call,
        "tool": call.tool,
        "branch": call.branch,
        "expected": call.expected,
        "started_at": call.started_at,
        "finished_at": call.finished_at,
        "outcome": call.outcome,
    }
