"""OpenTelemetry spans of programs, agents, steps and tools, if the application has set OpenTelemetry up."""

from .gate import SpansWhenTraced, use_tracer_provider

__all__ = ["SpansWhenTraced", "use_tracer_provider"]
