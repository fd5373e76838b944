"""Tells servers how the model calls of a Pydantic AI program belong together.

    agent = Agent(model, capabilities=[ProgramHints()])
"""

from .program_hints import ProgramHints

__all__ = ["ProgramHints"]
