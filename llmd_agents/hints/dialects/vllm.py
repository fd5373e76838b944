"""vLLM: its own priority, and the hint header once more inside the body.

Our middleware for vLLM reads the header `x-llmd-hints` itself. Where proxies drop unknown headers, it takes
the same value from `vllm_xargs`, which may hold flat values only. `kv_transfer_params` is no carrier for
clients: llm-d's sidecar rewrites it, and the middleware trusts nobody else's entry there. `cache_salt` keeps
tenants apart and so never comes from a hint.
"""

from collections.abc import Mapping
from typing import Any

from ..defaults import DEFAULT_PRIORITY
from ..errors import HintsTooLong
from ..header import encode_hints
from ..models import Hints
from .dialect import Dialect, Surroundings, beside

XARG = "llmd_agents"
"""The member of `vllm_xargs` that holds the value of `x-llmd-hints`."""


def _fields(hints: Hints, body: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    try:
        fields = beside(body, "vllm_xargs", {XARG: encode_hints(hints)})
    except HintsTooLong:
        fields = {}
    # In vLLM the lower number runs earlier; 0 is the place of calls without a priority.
    priority = DEFAULT_PRIORITY - hints.program.priority
    if priority and around.orders_by_priority and body.get("priority") is None:
        fields["priority"] = priority
    return fields


VLLM = Dialect(
    name="vllm",
    stack="vLLM",
    receives=(
        (
            "`vllm_xargs.llmd_agents`",
            "the whole hint header, for our middleware where headers get lost",
        ),
        (
            "`priority`",
            "50 − the program's: lower runs earlier. Only where the engine is said to take one",
        ),
    ),
    loses="without our middleware, connector or scheduler in the engine: everything but the priority",
    fields=_fields,
)
