"""The contract: what an application may declare about its model calls, and how it travels.

This package imports nothing else of the project, so that an engine can install it alone.
"""

from .ack import ACK_HEADER, Ack, decode_ack, encode_ack
from .canonical import canonical, canonical_message
from .digest import Link, UnreadableContext, chain
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
from .segments import segments_of

__all__ = [
    "ACK_HEADER",
    "DEFAULT_PRIORITY",
    "EVENTS_PATH",
    "HINTS_HEADER",
    "RESIDENCY_PATH",
    "ROOT_BRANCH",
    "VERSION",
    "Ack",
    "BranchEnded",
    "Decoded",
    "Event",
    "Forecast",
    "ForkDeclared",
    "ForkPosition",
    "Hints",
    "HintsTooLong",
    "Joined",
    "Lifetime",
    "Link",
    "LoopPosition",
    "Next",
    "Outcome",
    "Program",
    "ProgramFinished",
    "ProgramStarted",
    "Rejection",
    "ResidencyBatch",
    "ResidencyChange",
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
    "canonical",
    "canonical_message",
    "chain",
    "decode_ack",
    "decode_events",
    "decode_hints",
    "encode_ack",
    "encode_events",
    "encode_hints",
    "residency_scope",
    "segments_of",
]
