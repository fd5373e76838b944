"""Workloads and measurements: readers of real traces, and text that stands for recorded prompts."""

from .coding_sessions import BadTrace, CodingSession, Subagent, Turn, read_coding_session
from .recorded_program import RecordedFork, RecordedProgram, RecordedStep, RecordedTool
from .recordings import Recording, read_recordings
from .session_text import ChatPrompt, SessionText

__all__ = [
    "BadTrace",
    "ChatPrompt",
    "CodingSession",
    "RecordedFork",
    "RecordedProgram",
    "RecordedStep",
    "RecordedTool",
    "Recording",
    "SessionText",
    "Subagent",
    "Turn",
    "read_coding_session",
    "read_recordings",
]
