"""Names of tools as the contract takes them."""

from xxhash import xxh3_128_hexdigest

from llmd_agents.hints.limits import NAME_MAX_CHARS

CALL_MAX_CHARS = 256


def tool_name(name: str) -> str:
    """Returns a form of a name that may stand in an event: models name tools as they like."""
    name = name[:NAME_MAX_CHARS]
    return name if name.isprintable() and name else _cleaned(name)


def _cleaned(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name) or "unnamed"


def call_key(call_id: str) -> str:
    """Returns what a call is remembered by: its id, or a hash where a server makes ids of kilobytes."""
    if len(call_id) <= CALL_MAX_CHARS:
        return call_id
    return xxh3_128_hexdigest(call_id.encode("utf-8", "surrogatepass"))
