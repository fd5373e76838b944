"""The versions of the framework that the adapter has been tested with."""

from typing import Final

from llmd_agents.client import is_supported

VERSIONS: Final = {"llama-index-core": ">=0.14.25,<0.15", "llama-index-workflows": ">=2.26,<3"}


def all_tested() -> bool:
    """Returns whether those are installed; warns once of others."""
    found = [
        is_supported(package, versions, adapter="llmd-agents-llama-index")
        for package, versions in VERSIONS.items()
    ]
    return all(found)
