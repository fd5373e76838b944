"""Workloads and measurements: readers of real traces."""

from .coding_sessions import BadTrace, CodingSession, Subagent, Turn, read_coding_session

__all__ = ["BadTrace", "CodingSession", "Subagent", "Turn", "read_coding_session"]
