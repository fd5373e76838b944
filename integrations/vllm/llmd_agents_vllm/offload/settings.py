"""Options of `kv_connector_extra_config` that concern the order of eviction."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

BUDGET_KEY: Final = "retention_budget"
TENANT_BUDGET_KEY: Final = "retention_budget_per_tenant"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Shares of the host tier, 0 to 1, that estimates may keep beyond least-recently-used order.

    Attributes:
        budget: of all tenants together; 0 leaves least-recently-used order and what is dead.
        tenant_budget: of each tenant, where requests tell the scope of their `cache_salt`; those that do not
            count as one.
    """

    budget: float = 0.9
    tenant_budget: float = 1.0


_IN_FORCE: ContextVar[Settings] = ContextVar("llmd_agents_vllm.offload.settings", default=Settings())  # noqa: B039


def settings_of(extra_config: Mapping[str, Any]) -> Settings:
    """Reads the options.

    Raises:
        ValueError: if one of them is no share.
    """
    return Settings(
        budget=_share(extra_config, BUDGET_KEY, Settings.budget),
        tenant_budget=_share(extra_config, TENANT_BUDGET_KEY, Settings.tenant_budget),
    )


@contextmanager
def in_force(settings: Settings) -> Iterator[None]:
    """Policies that are made meanwhile take these: vLLM makes them, and hands them their capacity alone."""
    token = _IN_FORCE.set(settings)
    try:
        yield
    finally:
        _IN_FORCE.reset(token)


def current() -> Settings:
    return _IN_FORCE.get()


def _share(extra_config: Mapping[str, Any], key: str, default: float) -> float:
    value = extra_config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} in kv_connector_extra_config must be a number from 0 to 1, not {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{key} in kv_connector_extra_config must be a share from 0 to 1, not {value!r}")
    return float(value)
