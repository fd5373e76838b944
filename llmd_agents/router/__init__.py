"""The HTTP router: an OpenAI-compatible proxy around the runtime."""

from .app import Router
from .config import BadConfig, EngineConfig, RouterConfig, TenantConfig, load_config

__all__ = ["BadConfig", "EngineConfig", "Router", "RouterConfig", "TenantConfig", "load_config"]
