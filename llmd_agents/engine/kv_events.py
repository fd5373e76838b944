"""vLLM's KV events on the wire, as its 0.32 declares them in `vllm/distributed/kv_events.py`.

A batch is a msgpack array; each event in it is a map with its type under `type`. Fields that have a default
are left out where they have that value, as vLLM does.

Nothing but msgspec is imported here, so that vLLM's own classes can check these beside them.
"""

from typing import TypeAlias

import msgspec

DEVICE_MEDIUM = "GPU"

END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)
"""Stands in place of a number after the last batch that is sent again."""

BlockHash: TypeAlias = bytes | int
"""vLLM sends integers unless `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`; the embedded engine sends bytes."""


class _Event(msgspec.Struct, omit_defaults=True, gc=False, frozen=True, tag=True):
    pass


class BlockStored(_Event, frozen=True):
    """Blocks that have come to hold tokens, in the order of a prompt.

    Attributes:
        parent_block_hash: of the block before the first of them; None where the prompt begins.
        token_ids: of all of them together; none if they are not known.
        block_size: tokens per block.
        medium: which tier, in vLLM's words.
        group_idx: of the group of layers.
    """

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[object, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None


class BlockRemoved(_Event, frozen=True):
    """Blocks that are no longer held."""

    block_hashes: list[BlockHash]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(_Event, frozen=True):
    """No block is held any more."""


KvEvent: TypeAlias = BlockStored | BlockRemoved | AllBlocksCleared


class KvEventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, frozen=True):
    """What happened in one step, in order.

    Attributes:
        ts: Unix time in seconds.
        data_parallel_rank: which of an engine's replicas tells it.
    """

    ts: float
    events: list[KvEvent]
    data_parallel_rank: int | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KvEventBatch).decode


def encode_batch(batch: KvEventBatch) -> bytes:
    return _encode(batch)


def decode_batch(data: bytes) -> KvEventBatch:
    """Returns the batch, without fields that are not known here.

    Raises:
        msgspec.DecodeError: if it is none.
    """
    return _decode(data)
