"""Tells servers how the model calls of a Pydantic AI program belong together: `ProgramHints` and `hinted`."""

from .graph import hinted
from .program_hints import ProgramHints

__all__ = ["ProgramHints", "hinted"]
