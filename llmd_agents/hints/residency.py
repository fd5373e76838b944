"""What an engine says of its cache: `GET /v1/agent/kv/events`, server-sent, one JSON batch per event.

    data: {"epoch": "9f…", "seq": 7, "snapshot": false, "cleared": false,
           "changes": [{"digest": "…", "tier": "device", "tokens": 4096, "resident": true}]}

Batches are numbered in sequence; a subscription opens with a snapshot, which carries the number of the last
batch before it. A new epoch, or a gap in
`seq`, means that what was known of the engine no longer holds until the next snapshot.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .fields import Contract, Digest, Id, Size

RESIDENCY_PATH = "/v1/agent/kv/events"


class Tier(StrEnum):
    DEVICE = "device"
    HOST = "host"
    STORAGE = "storage"


class ResidencyChange(Contract):
    """The context named by `digest` is now in `tier`, whole, or no longer.

    `tokens` is the length of that context from the start of the prompt.
    """

    digest: Digest
    tier: Tier = Tier.DEVICE
    tokens: Size
    resident: bool


class ResidencyBatch(Contract):
    """Changes since the batch before; with `snapshot`, everything that is resident."""

    epoch: Id
    seq: Annotated[int, Field(ge=0)]
    snapshot: bool = False
    cleared: bool = False
    """All context is gone (`reset_prefix_cache`); precedes `changes`."""
    changes: tuple[ResidencyChange, ...] = ()
