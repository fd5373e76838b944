"""Tells servers how the model calls of a LangChain or LangGraph program belong together.

llmd_agents_langchain.install()
model = ChatOpenAI(model="…", base_url="…", **hooked())
"""

from typing import TYPE_CHECKING, Any

from .handler import LlmdAgentsHandler
from .http_clients import hooked
from .install import install

if TYPE_CHECKING:
    from .middleware import LlmdAgentsMiddleware

__all__ = ["LlmdAgentsHandler", "LlmdAgentsMiddleware", "hooked", "install"]


def __getattr__(name: str) -> Any:
    # Only agents made with `langchain` have middleware; chains and graphs do without that package.
    if name != "LlmdAgentsMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .middleware import LlmdAgentsMiddleware

    return LlmdAgentsMiddleware
