"""What the core tells a listener, in the order in which it happens.

Together with the requests themselves (`Queued`) the records suffice to repeat every allocation elsewhere:

    Queued → Admitted → Scheduled (one per chunk or decode step) → … → Finished | Aborted
                ↑ └──── Preempted ────┐
                └─────────────────────┘

`Admitted` uses the cached blocks of the prefix; the `Scheduled` after it takes blocks up to its `end`, and
the `Evicted` records between name what had to go for them, in order. At `Scheduled` the full blocks up to
`end` become cached. `Finished`, `Aborted` and `Preempted` give all blocks of the request back, tail first.

That holds for an engine that nobody directs and that has no lower tiers. With these, `Loading` takes blocks
(its `Evicted` records come before it) and pins the cached blocks that the request would hit, and `Loaded`
gives them all back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .request import EngineRequest


@dataclass(frozen=True, slots=True)
class Queued:
    request: EngineRequest


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request runs from now on; `cached_tokens` of it, whole blocks, are hits."""

    request_id: str
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Tokens start (inclusive) to end (exclusive) of prompt and output are computed in this step."""

    request_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Evicted:
    """A cached block was given up; `last` if no other block holds the same tokens."""

    hash: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Preempted:
    """The request lost its blocks to others and starts over when it is admitted again."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Finished:
    request_id: str


@dataclass(frozen=True, slots=True)
class Aborted:
    request_id: str


@dataclass(frozen=True, slots=True)
class CacheReset:
    """Everything cached was forgotten; no request held a block."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Blocks begin to be read from a lower tier or a peer, until `ends_s` in modelled time.

    `request_id` names the request that waits for them; None if they come ahead of any.
    """

    source: str
    hashes: tuple[bytes, ...]
    ends_s: float
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `Loading` announced is cached on the device."""

    source: str
    hashes: tuple[bytes, ...]


Record: TypeAlias = (
    Queued | Admitted | Scheduled | Evicted | Preempted | Finished | Aborted | CacheReset | Loading | Loaded
)
Listener: TypeAlias = Callable[[Record], None]
