"""`python -m llmd_agents` is the `llmd-agents` command."""

from .cli import main

main()
