"""The versions of the SDK that this adapter has been tested with."""

from llmd_agents.client import is_supported


def sdk_is_supported() -> bool:
    """Returns whether the installed SDK is one of them; warns once if it is not."""
    return is_supported("openai-agents", ">=0.24,<0.25", adapter="llmd-agents-openai-agents")
