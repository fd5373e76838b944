"""Which versions the adapter has been tested with. With others it warns once, and does nothing."""

from typing import Final

from llmd_agents.client import is_supported

ADAPTER: Final = "llmd-agents-mcp"
MCP: Final = ">=2.3,<3"
FASTMCP: Final = ">=4.1,<5"


def mcp_is_supported() -> bool:
    return is_supported("mcp", MCP, adapter=ADAPTER)


def fastmcp_is_supported() -> bool:
    # The distribution that holds the package; fastmcp itself is that one with its extras.
    return is_supported("fastmcp-slim", FASTMCP, adapter=ADAPTER)
