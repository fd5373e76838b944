"""What an engine says of its cache: `GET /v1/agent/kv/events`, server-sent, one JSON batch per event.

    data: {"epoch": "9f…", "seq": 7, "snapshot": false, "cleared": false,
           "changes": [{"digest": "…", "tier": "device", "tokens": 4096, "resident": true}]}

Contexts that were computed under a `cache_salt` carry a `scope`, which tells one salt from another without
telling the salt: what one tenant's requests put into a cache says nothing about another's.

Batches are numbered in sequence; a subscription opens with a snapshot, which carries the number of the last
batch before it. A new epoch, or a gap in `seq`, means that what was known of the engine no longer holds until
the next snapshot.
"""

import hashlib
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .fields import Contract, Digest, Id, Name, Size

RESIDENCY_PATH = "/v1/agent/kv/events"


class Tier(StrEnum):
    DEVICE = "device"
    HOST = "host"
    STORAGE = "storage"


def residency_scope(cache_salt: str | None) -> str | None:
    """Returns the scope of contexts that are computed under a salt; None without one."""
    if not cache_salt:
        return None
    return hashlib.sha256(cache_salt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ResidencyChange(Contract):
    """All of the context named by `digest` that can be cached is now on the device, or no longer.

    For a lower `tier`: can now be had from it and the tiers before it, without computing any, or no longer.
    So what is on the device may be resident in every tier. `tokens` is the length of the context from the
    start of the prompt. Tiers of later versions are kept.
    """

    digest: Digest
    """Names the context from the start of the prompt."""
    scope: Id | None = None
    """The `cache_salt` that it was computed under, without telling it (`residency_scope`)."""
    tier: Name = Tier.DEVICE
    """`device`, `host`, `storage`, …: an open set."""
    tokens: Size
    """Length of the context, in tokens."""
    resident: bool
    """All of it is there now, or no longer."""


class ResidencyBatch(Contract):
    """Changes since the batch before; with `snapshot`, everything that is resident."""

    epoch: Id
    """Names one run of the engine; a new one means an empty cache."""
    seq: Annotated[int, Field(ge=0)]
    """Numbers the batches of an epoch."""
    snapshot: bool = False
    """`changes` is everything that is resident; all that was known before is void."""
    cleared: bool = False
    """All context is gone (`reset_prefix_cache`); precedes `changes`."""
    changes: tuple[ResidencyChange, ...] = ()
    """In order."""
