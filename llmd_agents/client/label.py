"""Names that frameworks give to their parts, as the contract takes them."""

from llmd_agents.hints.limits import NAME_MAX_CHARS


def label_of(name: str | None) -> str | None:
    """Returns a form of a name that may label a step; None if there is nothing to it."""
    if not name:
        return None
    name = name[:NAME_MAX_CHARS]
    return name if name.isprintable() else "".join(char if char.isprintable() else "?" for char in name)
