"""The contract: what an application may declare about its model calls, and how it travels.

This package imports nothing else of the project, so that an engine can install it alone. A module is loaded
by who first uses a name of it, so that an application that imports its client does not wait for all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# The function has its module's name: imported later, the module would take its place.
from .canonical import canonical, canonical_message

if TYPE_CHECKING:
    from .ack import ACK_HEADER, Ack, decode_ack, encode_ack
    from .context_items import UnreadableContext
    from .defaults import DEFAULT_PRIORITY, ROOT_BRANCH, UNDECLARED
    from .digest import Link, chain, lineage_digest
    from .directives import (
        KV_EXPORT_PATH,
        KV_PATH,
        Demote,
        Directive,
        DirectiveOutcome,
        EngineKv,
        EngineRates,
        Message,
        Outcomes,
        Prefetch,
        Release,
        Result,
        Retain,
        Warm,
        decode_directives,
        decode_outcomes,
        encode_directives,
    )
    from .errors import HintsTooLong, UnreadableHints
    from .events import (
        EVENTS_PATH,
        BranchEnded,
        Event,
        ForkDeclared,
        Joined,
        Outcome,
        ProgramFinished,
        ProgramStarted,
        Superseded,
        ToolFinished,
        ToolStarted,
        decode_events,
        encode_events,
    )
    from .header import HINTS_HEADER, VERSION, Decoded, Rejection, decode_hints, encode_hints
    from .models import (
        Forecast,
        ForkPosition,
        Hints,
        Lifetime,
        LoopPosition,
        Next,
        Program,
        Scope,
        Segment,
        SegmentType,
        Step,
    )
    from .residency import RESIDENCY_PATH, ResidencyBatch, ResidencyChange, Tier, residency_scope
    from .retention import Budget, Estimate, Held, eviction_order, residual
    from .segments import segments_of

__all__ = [
    "ACK_HEADER",
    "DEFAULT_PRIORITY",
    "EVENTS_PATH",
    "HINTS_HEADER",
    "KV_EXPORT_PATH",
    "KV_PATH",
    "RESIDENCY_PATH",
    "ROOT_BRANCH",
    "UNDECLARED",
    "VERSION",
    "Ack",
    "BranchEnded",
    "Budget",
    "Decoded",
    "Demote",
    "Directive",
    "DirectiveOutcome",
    "EngineKv",
    "EngineRates",
    "Estimate",
    "Event",
    "Forecast",
    "ForkDeclared",
    "ForkPosition",
    "Held",
    "Hints",
    "HintsTooLong",
    "Joined",
    "Lifetime",
    "Link",
    "LoopPosition",
    "Message",
    "Next",
    "Outcome",
    "Outcomes",
    "Prefetch",
    "Program",
    "ProgramFinished",
    "ProgramStarted",
    "Rejection",
    "Release",
    "ResidencyBatch",
    "ResidencyChange",
    "Result",
    "Retain",
    "Scope",
    "Segment",
    "SegmentType",
    "Step",
    "Superseded",
    "Tier",
    "ToolFinished",
    "ToolStarted",
    "UnreadableContext",
    "UnreadableHints",
    "Warm",
    "canonical",
    "canonical_message",
    "chain",
    "decode_ack",
    "decode_directives",
    "decode_events",
    "decode_hints",
    "decode_outcomes",
    "encode_ack",
    "encode_directives",
    "encode_events",
    "encode_hints",
    "eviction_order",
    "lineage_digest",
    "residency_scope",
    "residual",
    "segments_of",
]

_NAMES = {
    "ack": ("ACK_HEADER", "Ack", "decode_ack", "encode_ack"),
    "context_items": ("UnreadableContext",),
    "defaults": ("UNDECLARED", "ROOT_BRANCH", "DEFAULT_PRIORITY"),
    "digest": ("Link", "chain", "lineage_digest"),
    "directives": (
        "KV_EXPORT_PATH",
        "KV_PATH",
        "Demote",
        "Directive",
        "DirectiveOutcome",
        "EngineKv",
        "EngineRates",
        "Message",
        "Outcomes",
        "Prefetch",
        "Release",
        "Result",
        "Retain",
        "Warm",
        "decode_directives",
        "decode_outcomes",
        "encode_directives",
    ),
    "errors": ("HintsTooLong", "UnreadableHints"),
    "events": (
        "EVENTS_PATH",
        "BranchEnded",
        "Event",
        "ForkDeclared",
        "Joined",
        "Outcome",
        "ProgramFinished",
        "ProgramStarted",
        "Superseded",
        "ToolFinished",
        "ToolStarted",
        "decode_events",
        "encode_events",
    ),
    "header": ("HINTS_HEADER", "VERSION", "Decoded", "Rejection", "decode_hints", "encode_hints"),
    "models": (
        "Forecast",
        "ForkPosition",
        "Hints",
        "Lifetime",
        "LoopPosition",
        "Next",
        "Program",
        "Scope",
        "Segment",
        "SegmentType",
        "Step",
    ),
    "residency": ("RESIDENCY_PATH", "ResidencyBatch", "ResidencyChange", "Tier", "residency_scope"),
    "retention": ("Budget", "Estimate", "Held", "eviction_order", "residual"),
    "segments": ("segments_of",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
