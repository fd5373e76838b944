"""The contract: what an application may declare about its model calls, and how it travels.

This package imports nothing else of the project, so that an engine can install it alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .ack import ACK_HEADER, Ack, decode_ack, encode_ack
from .canonical import canonical, canonical_message
from .context_items import UnreadableContext
from .digest import Link, chain, lineage_digest
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
    DEFAULT_PRIORITY,
    ROOT_BRANCH,
    UNDECLARED,
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
from .segments import segments_of

if TYPE_CHECKING:
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
    from .residency import RESIDENCY_PATH, ResidencyBatch, ResidencyChange, Tier, residency_scope
    from .retention import Budget, Estimate, Held, eviction_order, residual

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

# What routers and engines say to each other: an application that imports its client does not wait for it.
_LATER = {
    **dict.fromkeys(
        (
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
        "directives",
    ),
    **dict.fromkeys(
        ("RESIDENCY_PATH", "ResidencyBatch", "ResidencyChange", "Tier", "residency_scope"), "residency"
    ),
    **dict.fromkeys(("Budget", "Estimate", "Held", "eviction_order", "residual"), "retention"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return value
