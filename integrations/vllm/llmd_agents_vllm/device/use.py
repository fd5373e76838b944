"""One request, as the books see it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmd_agents.cache_index import Name
from llmd_agents.hints import Hints


@dataclass(slots=True, eq=False)
class Use:
    """A request's use of the cache; a `cache_index.CacheUser`.

    Attributes:
        hashes: of its full blocks; grows as vLLM extends it.
        prompt: token ids.
        links: (chain digest, canonical bytes of the context up to it); empty without a chain.
        scope: of its cache salt.
        hints: what it declared; None without.
        repeatable: its prompt can be sent again from its token ids alone.
        boundaries: where its links end; None until it is first scheduled.
        registered, boundary, names: see `CacheUser`.
    """

    hashes: Sequence[bytes]
    prompt: Sequence[int]
    links: tuple[tuple[bytes, int], ...]
    scope: str | None
    hints: Hints | None = None
    salt: str | None = None
    repeatable: bool = True
    boundaries: tuple[tuple[bytes, int], ...] = ()
    registered: int = 0
    boundary: int = 0
    names: list[Name] = field(default_factory=list)
