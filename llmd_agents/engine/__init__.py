"""An embedded engine: it models an LLM inference server and runs no model.

`EngineCore` is the engine itself, without I/O or clock; `EngineServer` is an OpenAI-compatible ASGI
application around it. How tokens are counted is stated in `tokenizer`, what a step costs in the profile.
"""

from .blocks import cache_root
from .clock import ModelClock
from .core import EngineCore, RequestTooLarge, StepOutput, Totals
from .dispatch import DispatchOrder, first_come_first_served
from .eviction import Block, EvictionOrder, LeastRecentlyUsed
from .profile import EngineProfile, ProfileError, load_profile, profile_names
from .records import (
    Aborted,
    Admitted,
    CacheReset,
    Evicted,
    Finished,
    Listener,
    Preempted,
    Queued,
    Record,
    Scheduled,
)
from .reply_text import ReplyText
from .request import EngineRequest, Progress, RequestStats
from .server import EngineServer
from .tokenizer import Prompt, UnrenderablePrompt, render

__all__ = [
    "Aborted",
    "Admitted",
    "Block",
    "CacheReset",
    "DispatchOrder",
    "EngineCore",
    "EngineProfile",
    "EngineRequest",
    "EngineServer",
    "Evicted",
    "EvictionOrder",
    "Finished",
    "LeastRecentlyUsed",
    "Listener",
    "ModelClock",
    "Preempted",
    "ProfileError",
    "Progress",
    "Prompt",
    "Queued",
    "Record",
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
