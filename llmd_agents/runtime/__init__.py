"""The brain, sans-IO: program graph, residency, placement, directives."""

from .contexts import Context, Contexts, Residence
from .directives import Issued
from .engine_state import EngineState
from .graph import ProgramGraph, ProgramRecord
from .journal import Journal
from .load import EngineLoad
from .placement import PLACEMENTS, Candidate, Placement, load_and_affinity, placement_by, prefix_aware, spread
from .runtime import COPY_HEARD_S, DEFAULT_TENANT, Arrival, Call, Mode, Runtime, Usage
from .views import engines_view, program_view

__all__ = [
    "COPY_HEARD_S",
    "DEFAULT_TENANT",
    "PLACEMENTS",
    "Arrival",
    "BadJournal",
    "Call",
    "Candidate",
    "Context",
    "Contexts",
    "EngineLoad",
    "EngineState",
    "Issued",
    "Journal",
    "Mode",
    "Placement",
    "ProgramGraph",
    "ProgramRecord",
    "Redecided",
    "Residence",
    "Runtime",
    "Usage",
    "engines_view",
    "load_and_affinity",
    "placement_by",
    "prefix_aware",
    "program_view",
    "redecide",
    "spread",
]
from .redecide import BadJournal, Redecided, redecide
