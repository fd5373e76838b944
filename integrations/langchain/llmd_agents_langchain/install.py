"""Attaches the handler to every run of LangChain in this process."""

from contextvars import ContextVar
from functools import cache

from langchain_core.tracers.context import register_configure_hook

from .handler import LlmdAgentsHandler


@cache
def install() -> None:
    """Observes all chains and graphs that run from now on, in every thread. Once is enough."""
    # LangChain asks for the variable's value; its default is the same in every thread.
    handler: ContextVar[LlmdAgentsHandler | None] = ContextVar(
        "llmd_agents_langchain",
        default=LlmdAgentsHandler(),  # noqa: B039  (its runs are the process's)
    )
    register_configure_hook(handler, inheritable=True, handle_class=LlmdAgentsHandler)
