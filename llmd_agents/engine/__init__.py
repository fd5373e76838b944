"""An embedded engine: it models an LLM inference server and runs no model.

`EngineCore` is the engine itself, without I/O or clock; `EngineServer` is an OpenAI-compatible ASGI
application around it. How tokens are counted is stated in `tokenizer`, what a step costs in the profile.
"""

from .blocks import cache_root
from .clock import ModelClock
from .core import EngineCore, RequestTooLarge, StepOutput, Totals
from .dispatch import CachedFirst, DispatchOrder, first_come_first_served
from .eviction import Block, EvictionOrder, LeastRecentlyUsed
from .export import Export, PeerRead
from .loop import EngineLoop, Reply
from .profile import EngineProfile, ProfileError, load_profile, profile_names
from .records import (
    Aborted,
    Admitted,
    CacheReset,
    Evicted,
    Finished,
    Listener,
    Loaded,
    Loading,
    Preempted,
    Queued,
    Record,
    Scheduled,
)
from .reply_text import ReplyText
from .request import EngineRequest, Progress, RequestStats
from .retention import ByNextUse
from .server import EngineServer
from .tokenizer import Prompt, UnrenderablePrompt, render

__all__ = [
    "Aborted",
    "Admitted",
    "Block",
    "ByNextUse",
    "CacheReset",
    "CachedFirst",
    "DispatchOrder",
    "EngineCore",
    "EngineLoop",
    "EngineProfile",
    "EngineRequest",
    "EngineServer",
    "Evicted",
    "EvictionOrder",
    "Export",
    "Finished",
    "LeastRecentlyUsed",
    "Listener",
    "Loaded",
    "Loading",
    "ModelClock",
    "PeerRead",
    "Preempted",
    "ProfileError",
    "Progress",
    "Prompt",
    "Queued",
    "Record",
    "Reply",
    "ReplyText",
    "RequestStats",
    "RequestTooLarge",
    "Scheduled",
    "StepOutput",
    "Totals",
    "UnrenderablePrompt",
    "cache_root",
    "first_come_first_served",
    "load_profile",
    "profile_names",
    "render",
]
