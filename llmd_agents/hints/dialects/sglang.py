"""SGLang's `agent_hints`, which its agent-aware eviction reads; other versions leave the member alone."""

from collections.abc import Mapping
from typing import Any

from ..models import Hints, Lifetime, Next
from .dialect import Dialect, Surroundings, beside
from .quantile import soon_sure

TTL_Q = 0.9
"""A time to live covers this share of waits: one number must stand for median and spread."""


def _fields(hints: Hints, body: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    step, forecast = hints.step, hints.forecast
    ours: dict[str, Any] = {"workflow_id": hints.program.id, "step_id": step.id}
    if step.agent is not None:
        ours["agent_id"] = step.agent
    if step.parents:
        ours["parent_step_id"] = step.parents[-1]
    if forecast is not None:
        if forecast.after is not None:
            if forecast.next is Next.TOOL:
                ours["expected_tool_duration_ms"] = round(forecast.after * 1000)
            ours["cache_ttl_ms"] = round(soon_sure(forecast.after, forecast.sigma, TTL_Q) * 1000)
        ours["reuse_hint"] = "discard" if forecast.next is Next.END else "keep"
    elif hints.segments and hints.segments[-1].effective_lifetime == Lifetime.STEP:
        ours["reuse_hint"] = "discard"
    return beside(body, "agent_hints", ours)


SGLANG = Dialect(
    name="sglang",
    stack="SGLang",
    receives=(
        ("`agent_hints.workflow_id`", "the program"),
        ("`agent_hints.agent_id`, `step_id`", "the agent, the step"),
        ("`agent_hints.parent_step_id`", "the last of the parents"),
        ("`agent_hints.expected_tool_duration_ms`", "the forecast's median, before a tool"),
        ("`agent_hints.cache_ttl_ms`", "within which nine of ten such waits end"),
        ("`agent_hints.reuse_hint`", "`keep` where a forecast says what follows, `discard` at the end"),
    ),
    loses="further parents, branch, fork, join, loop, segments, priority, deadline, expected output",
    fields=_fields,
)
