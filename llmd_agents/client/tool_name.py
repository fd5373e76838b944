"""Names of tools as the contract takes them."""

from llmd_agents.hints.limits import NAME_MAX_CHARS


def tool_name(name: str) -> str:
    """Returns a form of a name that may stand in an event: models name tools as they like."""
    name = name[:NAME_MAX_CHARS]
    return name if name.isprintable() and name else _cleaned(name)


def _cleaned(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name) or "unnamed"
