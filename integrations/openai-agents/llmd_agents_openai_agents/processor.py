"""What the SDK tells of its runs, as traces and spans, becomes the scopes that steps are made in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agents.tracing import TracingProcessor, get_current_trace

from llmd_agents.client import begin_scope, faults, tool_call

from .open_parts import open_parts
from .part import Part
from .supported import sdk_is_supported

if TYPE_CHECKING:
    from agents.tracing import Span, Trace


class ProgramProcessor(TracingProcessor):
    """A trace processor that exports nothing: model calls of a run learn from it where in the run they are.

    `install()` adds one beside those that there are. For structure without any export, this is the only one:

        set_trace_processors([ProgramProcessor()])

    The SDK calls it in the task that the trace or span begins and ends in. It never raises and never blocks.
    """

    def __init__(self) -> None:
        self._gives_hints = sdk_is_supported()

    def on_trace_start(self, trace: Trace) -> None:
        if self._gives_hints:
            with faults("a trace's beginning is not told"):
                _begin_trace(trace)

    def on_trace_end(self, trace: Trace) -> None:
        with faults("a trace's end is not told"):
            part = open_parts.pop(trace.trace_id, None)
            if part is not None:
                part.end()

    def on_span_start(self, span: Span[Any]) -> None:
        if self._gives_hints:
            with faults("a span's beginning is not told"):
                _begin_span(span)

    def on_span_end(self, span: Span[Any]) -> None:
        with faults("a span's end is not told"):
            _end_span(span)

    def shutdown(self) -> None:
        pass

    def force_flush(self) -> None:
        pass


def _begin_trace(trace: Trace) -> None:
    if trace.trace_id in open_parts:
        return
    part = Part(begin_scope(trace.name, thread=_thread_of(trace)))
    open_parts.put(trace.trace_id, part)
    part.scope.enter()


def _begin_span(span: Span[Any]) -> None:
    span_id = span.span_id
    if span_id in open_parts:
        return
    data = span.span_data
    kind = data.type
    outer = open_parts.get(span.parent_id or span.trace_id)
    if outer is not None and outer.guarded and _is_plain(kind, data):
        open_parts.put(span_id, outer)
        outer.begin_plain()
        return
    if outer is not None:
        part = _part_within(outer, kind, data)
    elif span.parent_id is None and (trace := get_current_trace()) is not None:
        # Of a run that is resumed from its state the SDK does not tell that the trace begins again.
        scope = begin_scope(trace.name, agent=_agent_of(kind, data), thread=_thread_of(trace))
        part = Part(scope, guarded=_is_guarded(kind, data))
    else:
        return
    open_parts.put(span_id, part)
    part.scope.enter()
    if part.tool is not None:
        part.tool.__enter__()


def _part_within(outer: Part, kind: str, data: Any) -> Part:
    if kind == "guardrail":
        return Part(outer.open_guardrail())
    if kind == "function":
        call = tool_call(data.name)
        return Part(outer.open_tool(), call)
    return Part(outer.open(agent=_agent_of(kind, data)), guarded=_is_guarded(kind, data))


def _agent_of(kind: str, data: Any) -> str | None:
    return data.name if kind == "agent" else None


def _is_guarded(kind: str, data: Any) -> bool:
    return kind == "agent" or (kind == "turn" and not _is_plain(kind, data))


def _is_plain(kind: str, data: Any) -> bool:
    """Returns whether an agent or turn makes such spans one after another, in code of its own."""
    # Only in a first turn are there guardrails. What is in later ones is opened in the agent itself.
    return kind in ("generation", "response", "mcp_tools") or (kind == "turn" and data.turn > 1)


def _end_span(span: Span[Any]) -> None:
    part = open_parts.pop(span.span_id, None)
    if part is None:
        return
    data = span.span_data
    kind = data.type
    if part.guarded and _is_plain(kind, data):
        part.end_plain()
        return
    failed = part.end(failed=span.error is not None)
    # How a run ends is told by its last agent: not all that goes wrong is raised within the trace.
    if kind in ("agent", "task"):
        outer = open_parts.get(span.parent_id or span.trace_id)
        if outer is not None:
            outer.failed = failed


def _thread_of(trace: Trace) -> str | None:
    group = getattr(trace, "group_id", None)
    return str(group) if group else None
