"""Options of `kv_connector_extra_config` that concern the order of eviction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

from ..options import Share, StrictOptions


class Settings(StrictOptions):
    """Shares of the host tier that estimates may keep beyond least-recently-used order."""

    where: ClassVar[str] = "AgentOffloadSpec"

    retention_budget: Share = 0.9
    """Of all tenants together; 0 leaves least-recently-used order and what is dead."""
    retention_budget_per_tenant: Share = 1.0
    """Of each tenant, where requests tell the scope of their `cache_salt`; those that do not count as one."""


_IN_FORCE: ContextVar[Settings] = ContextVar("llmd_agents_vllm.offload.settings", default=Settings())  # noqa: B039


def settings_of(extra_config: Mapping[str, Any]) -> Settings:
    """Reads the options, among those of vLLM.

    Raises:
        BadOptions: if one of them is no share.
    """
    return Settings.of({name: extra_config[name] for name in Settings.model_fields if name in extra_config})


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
