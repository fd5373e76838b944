"""The versions of the frameworks that the adapter has been tested with."""

from importlib.util import find_spec
from typing import Final

from llmd_agents.client import is_supported

VERSIONS: Final = {
    "langchain-core": ("langchain_core", ">=1.7,<2"),
    "langgraph": ("langgraph", ">=1.2,<2"),
    "langchain": ("langchain", ">=1.4,<2"),
}


def all_tested() -> bool:
    """Returns whether those of the packages that are installed are of such versions; warns of others."""
    found = [
        is_supported(package, versions, adapter="llmd-agents-langchain")
        for package, (module, versions) in VERSIONS.items()
        if find_spec(module) is not None
    ]
    return all(found)
