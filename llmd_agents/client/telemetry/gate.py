"""Whether spans are made: only where the application has loaded OpenTelemetry's SDK and given it a provider.

Else not even OpenTelemetry's API is imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from ..history import BranchRecord, ForkRecord, History, StepRecord, ToolRecord
    from .spans import ProgramSpans

_given: TracerProvider | None = None


def use_tracer_provider(provider: TracerProvider | None) -> None:
    """Makes spans with this provider from now on, rather than with the one that is set globally.

    Args:
        provider: None goes back to the global one; a `NoOpTracerProvider` makes no spans.
    """
    global _given
    _given = provider


def _provider() -> TracerProvider | None:
    if _given is None and "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, get_tracer_provider

    provider = _given or get_tracer_provider()
    # A proxy stands for a provider that has not been set yet.
    return None if isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)) else provider


def traced() -> bool:
    """Returns whether spans are made."""
    return _provider() is not None


class SpansWhenTraced:
    """Observes programs and makes spans of them; without tracing it is a look at `sys.modules`."""

    def program_started(self, history: History) -> None:
        spans = self._begin(history)
        if spans is not None:
            spans.start_program()

    def program_ended(self, history: History) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.end_program()

    def fork_declared(self, history: History, fork: ForkRecord) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.declare_fork(fork)

    def fork_joined(self, history: History, fork: ForkRecord) -> None:
        """Nothing: the join shows as links of the next step."""

    def branch_started(self, history: History, branch: BranchRecord) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.start_branch(branch)

    def branch_ended(self, history: History, branch: BranchRecord) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.end_branch(branch)

    def step_started(self, history: History, step: StepRecord) -> None:
        # A program that nobody declared may be older than the provider.
        spans = _spans(history) or self._begin(history)
        if spans is not None:
            spans.start_step(step)

    def step_ended(self, history: History, step: StepRecord) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.end_step(step)

    def tool_started(self, history: History, tool: ToolRecord) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.start_tool(tool)

    def tool_ended(self, history: History, tool: ToolRecord) -> None:
        spans = _spans(history)
        if spans is not None:
            spans.end_tool(tool)

    def _begin(self, history: History) -> ProgramSpans | None:
        provider = _provider()
        if provider is None:
            return None
        from .spans import ProgramSpans

        spans = history.span = ProgramSpans(provider, history)
        return spans


def _spans(history: History) -> ProgramSpans | None:
    spans: ProgramSpans | None = history.span  # type: ignore[assignment]  # nobody else writes it
    return spans
