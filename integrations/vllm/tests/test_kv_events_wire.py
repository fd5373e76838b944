"""The embedded engine's KV events, byte for byte beside vLLM's own classes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from vllm.distributed import kv_events as theirs


def _wire() -> ModuleType:
    """Returns the module that writes them; alone, since the engine around it is not installed beside vLLM."""
    package = importlib.util.find_spec("llmd_agents")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "engine" / "kv_events.py"
    spec = importlib.util.spec_from_file_location("llmd_agents_kv_events", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ours = _wire()

ALL_FIELDS: dict[str, dict[str, Any]] = {
    "BlockStored": {
        "block_hashes": [b"\x01" * 16, 2**63],
        "parent_block_hash": b"\x00" * 16,
        "token_ids": [0, 1, 2**32 - 1],
        "block_size": 16,
        "lora_id": 3,
        "medium": "GPU",
        "lora_name": "adapter",
        "extra_keys": [("salt",), None],
        "group_idx": 1,
        "kv_cache_spec_kind": "full_attention",
        "kv_cache_spec_sliding_window": 4096,
        "locality": "LOCAL",
        "ownership": "fs",
        "session_id": "s",
    },
    "BlockRemoved": {
        "block_hashes": [b"\x01" * 16],
        "medium": None,
        "group_idx": 0,
        "locality": "REMOTE",
        "ownership": "fs",
    },
    "AllBlocksCleared": {},
}
NEEDED = {
    "BlockStored": tuple(ALL_FIELDS["BlockStored"])[:7],
    "BlockRemoved": ("block_hashes", "medium"),
    "AllBlocksCleared": (),
}


def events(module: Any, name: str) -> list[Any]:
    """Returns an event with all of its fields, and one with those alone that it must have."""
    kind, fields = getattr(module, name), ALL_FIELDS[name]
    return [kind(**fields), kind(**{field: fields[field] for field in NEEDED[name]})]


def decoded_by_vllm(data: bytes) -> Any:
    return msgspec.msgpack.Decoder(theirs.KVEventBatch).decode(data)


@pytest.mark.parametrize("rank", [None, 0, 3])
@pytest.mark.parametrize("name", ALL_FIELDS)
def test_the_bytes_are_the_same(name: str, rank: int | None) -> None:
    written = ours.encode_batch(ours.KvEventBatch(1.5, events(ours, name), rank))
    batch = theirs.KVEventBatch(ts=1.5, events=events(theirs, name), data_parallel_rank=rank)
    assert written == msgspec.msgpack.Encoder().encode(batch)


@pytest.mark.parametrize("name", ALL_FIELDS)
def test_vllm_reads_what_we_write(name: str) -> None:
    batch = decoded_by_vllm(ours.encode_batch(ours.KvEventBatch(1.5, events(ours, name), 0)))
    assert (batch.ts, batch.data_parallel_rank) == (1.5, 0)
    assert [type(event) for event in batch.events] == [getattr(theirs, name)] * 2
    assert [msgspec.structs.asdict(event) for event in batch.events] == [
        msgspec.structs.asdict(event) for event in events(theirs, name)
    ]


@pytest.mark.parametrize("name", ALL_FIELDS)
def test_we_read_what_vllm_writes(name: str) -> None:
    batch = theirs.KVEventBatch(ts=2.5, events=events(theirs, name), data_parallel_rank=1)
    read = ours.decode_batch(msgspec.msgpack.Encoder().encode(batch))
    assert (read.ts, read.data_parallel_rank) == (2.5, 1)
    assert read.events == events(ours, name)


def test_every_field_of_vllm_is_here_in_its_place() -> None:
    for name in ALL_FIELDS:
        mine = [(field.name, field.default) for field in msgspec.structs.fields(getattr(ours, name))]
        assert mine == [
            (field.name, field.default) for field in msgspec.structs.fields(getattr(theirs, name))
        ]
    assert ours.END_OF_REPLAY == theirs.ZmqEventPublisher.END_SEQ
