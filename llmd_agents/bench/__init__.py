"""Workloads and measurements: readers of real traces, and text that stands for recorded prompts."""

from .coding_sessions import BadTrace, CodingSession, Subagent, Turn, read_coding_session
from .session_text import ChatPrompt, SessionText

__all__ = [
    "BadTrace",
    "ChatPrompt",
    "CodingSession",
    "SessionText",
    "Subagent",
    "Turn",
    "read_coding_session",
]
