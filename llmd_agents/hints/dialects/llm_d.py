"""llm-d's router: session affinity, fairness between programs, and objectives.

Lower-case names with hyphens only: its Envoy refuses headers with underscores.
"""

from ..models import Hints
from .dialect import Dialect, Surroundings
from .session import session_id


def _headers(hints: Hints, around: Surroundings) -> dict[str, str]:
    headers = {
        "x-session-id": session_id(hints),
        "x-llm-d-inference-fairness-id": hints.program.id,
    }
    # Objectives are resources of the cluster: one that nobody has made counts as none, so none is invented.
    if around.objective is not None and _is_resource_name(around.objective):
        headers["x-llm-d-inference-objective"] = around.objective
    return headers


def _is_resource_name(text: str) -> bool:
    return 0 < len(text) <= 253 and text.isascii() and text.isprintable() and " " not in text


LLM_D = Dialect(
    name="llm_d",
    stack="llm-d router",
    receives=(
        ("`x-session-id`", "program and branch, for session affinity"),
        ("`x-llm-d-inference-fairness-id`", "the program, for program-aware fairness"),
        ("`x-llm-d-inference-objective`", "the objective that was configured; else not sent"),
    ),
    loses="graph, segments, forecast, deadline (its latency objectives are of single calls), priority",
    headers=_headers,
)
