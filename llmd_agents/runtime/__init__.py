"""The brain, sans-IO: program graph, residency, placement."""

from .contexts import Context, Contexts, Residence
from .graph import ProgramGraph, ProgramRecord
from .placement import Candidate, by_residency_and_load, spread
from .runtime import DEFAULT_TENANT, Arrival, Call, EngineState, Runtime, Usage
from .views import engines_view, program_view

__all__ = [
    "DEFAULT_TENANT",
    "Arrival",
    "Call",
    "Candidate",
    "Context",
    "Contexts",
    "EngineState",
    "ProgramGraph",
    "ProgramRecord",
    "Residence",
    "Runtime",
    "Usage",
    "by_residency_and_load",
    "engines_view",
    "program_view",
    "spread",
]
