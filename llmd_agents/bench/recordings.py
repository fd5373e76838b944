"""Whatever can be replayed, read from a file: the file itself tells its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .coding_sessions import CodingSession, read_coding_session
from .otel_spans import read_documents
from .recorded_program import RecordedProgram, programs_of

if TYPE_CHECKING:
    from pathlib import Path

Recording: TypeAlias = CodingSession | RecordedProgram


def read_recordings(path: Path) -> list[Recording]:
    """Reads a coding-agent session, or the programs that OpenTelemetry spans tell of.

    Raises:
        BadTrace: if the file cannot be read or holds neither.
    """
    documents = read_documents(path)
    if len(documents) == 1 and isinstance(documents[0], dict) and "requests" in documents[0]:
        return [read_coding_session(path)]
    return list(programs_of(documents, path))
