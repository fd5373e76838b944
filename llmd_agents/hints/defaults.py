"""What stands where nothing is declared."""

from typing import Final

ROOT_BRANCH: Final = "main"
"""Id of the branch that every program starts with."""

UNDECLARED: Final = "undeclared"
"""Name of the programs that clients form where nothing is declared: prompts alone tell branches apart."""

DEFAULT_PRIORITY: Final = 50
"""A program's priority, of 0 to 100."""
