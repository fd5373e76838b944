"""OpenTelemetry spans of programs, agents, steps and tools, if the application has set OpenTelemetry up."""

from .gate import SpansWhenTraced, traced, use_tracer_provider

__all__ = ["SpansWhenTraced", "traced", "use_tracer_provider"]
