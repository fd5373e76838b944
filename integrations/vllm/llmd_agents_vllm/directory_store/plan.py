"""What passes between the two halves of the connector in each step of the engine."""

from collections import Counter
from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

BlockIds = tuple[int, ...]
"""Where a block lies on the device: one id for each group of layers."""

Block = tuple[bytes, BlockIds]
"""A block's hash, and where it lies."""


@dataclass
class Plan(KVConnectorMetadata):
    """From the scheduler to every worker: blocks to load, for each request, and blocks to write."""

    namespace: bytes
    loads: dict[str, list[Block]] = field(default_factory=dict)
    saves: list[Block] = field(default_factory=list)


@dataclass
class Done(KVConnectorWorkerMetadata):
    """From the workers to the scheduler: what became of a plan.

    Attributes:
        absent: hashes of blocks that were not found, or not written.
        unusable: hashes of blocks whose files are of no use and cannot be removed.
        counts: how often what happened, by kind, summed over ranks.
        declined: why a worker neither loads nor writes anything.
    """

    absent: set[bytes] = field(default_factory=set)
    unusable: set[bytes] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    declined: str | None = None

    def __bool__(self) -> bool:
        return bool(self.absent or self.unusable or self.counts or self.declined)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Done":
        assert isinstance(other, Done)
        return Done(
            self.absent | other.absent,
            self.unusable | other.unusable,
            self.counts + other.counts,
            self.declined or other.declined,
        )
