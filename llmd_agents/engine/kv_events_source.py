"""What the core's records mean as vLLM's KV events: which blocks the device has come to hold and lost."""

import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from .blocks import extend_hashes
from .kv_events import DEVICE_MEDIUM, AllBlocksCleared, BlockRemoved, BlockStored, KvEvent
from .profile import EngineProfile
from .records import (
    Aborted,
    Admitted,
    CacheReset,
    Evicted,
    Finished,
    Loaded,
    Loading,
    Preempted,
    Queued,
    Record,
    Scheduled,
)
from .request import EngineRequest
from .tokenizer import BYTES_PER_TOKEN

GROUP = 0
KIND = "full_attention"
"""All layers are alike."""


@dataclass(slots=True)
class _Running:
    """A request in the engine: hashes of its blocks, as far as they were needed, and how many are cached."""

    request: EngineRequest
    tokens: bytes
    hashes: list[bytes] = field(default_factory=list)
    cached: int = 0


class _Block(NamedTuple):
    """What a hash stands for."""

    parent: bytes | None
    tokens: bytes


class KvEventSource:
    """A listener of an engine's core that turns records into events.

    A block is stored each time that it is computed or loaded, whether or not another holds the same tokens,
    as in vLLM; it is removed when the last that holds them goes. The lower tiers send no events, but what
    they hold is remembered, up to their size, so that a block which is loaded from there is told with its
    tokens. One that was copied from another engine and never seen here has none.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self._block_size = profile.block_size
        self._block_bytes = profile.block_size * BYTES_PER_TOKEN
        lower = profile.host_blocks + profile.storage_blocks
        self._known_most = profile.num_blocks + lower if lower else 0
        self._requests: dict[str, _Running] = {}
        self._known: OrderedDict[bytes, _Block] = OrderedDict()
        self._events: list[KvEvent] = []

    def __call__(self, record: Record) -> None:
        match record:
            case Scheduled(request_id, _, end):
                self._computed(self._requests[request_id], end // self._block_size)
            case Evicted(block_hash, last):
                if last:
                    self._removed(block_hash)
            case Queued(request):
                self._requests[request.id] = _Running(request, request.prompt + request.output)
            case Admitted(request_id, cached_tokens):
                self._requests[request_id].cached = cached_tokens // self._block_size
            case Preempted(request_id):
                self._requests[request_id].cached = 0
            case Finished(request_id) | Aborted(request_id):
                del self._requests[request_id]
            case CacheReset():
                self._events.append(AllBlocksCleared())
            case Loaded(_, hashes):
                self._loaded(hashes)
            case Loading():
                pass

    def take(self) -> list[KvEvent]:
        """Returns the events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _computed(self, running: _Running, full: int) -> None:
        start = running.cached
        if full <= start:
            return
        hashes, tokens, size = running.hashes, running.tokens, self._block_bytes
        extend_hashes(hashes, running.request.root, tokens, self._block_size, full)
        running.cached = full
        parent = hashes[start - 1] if start else None
        self._stored(hashes[start:full], parent, tokens[start * size : full * size])
        if self._known_most:
            for index in range(start, full):
                before = hashes[index - 1] if index else None
                self._remember(hashes[index], _Block(before, tokens[index * size : (index + 1) * size]))

    def _remember(self, block_hash: bytes, block: _Block) -> None:
        self._known[block_hash] = block
        self._known.move_to_end(block_hash)
        if len(self._known) > self._known_most:
            self._known.popitem(last=False)

    def _removed(self, block_hash: bytes) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, BlockRemoved):
            last.block_hashes.append(block_hash)
        else:
            self._events.append(BlockRemoved([block_hash], DEVICE_MEDIUM, GROUP))

    def _loaded(self, hashes: tuple[bytes, ...]) -> None:
        """Tells blocks that follow one another in a prompt in one event."""
        run: list[bytes] = []
        first: _Block | None = None
        tokens = b""
        for block_hash in hashes:
            block = self._known.get(block_hash)
            if first is not None and (block is None or block.parent != run[-1]):
                self._stored(run, first.parent, tokens)
                run, first, tokens = [], None, b""
            if block is None:
                self._stored([block_hash], None, b"")
                continue
            self._known.move_to_end(block_hash)
            first = first or block
            run.append(block_hash)
            tokens += block.tokens
        if first is not None:
            self._stored(run, first.parent, tokens)

    def _stored(self, hashes: list[bytes], parent: bytes | None, tokens: bytes) -> None:
        self._events.append(
            BlockStored(
                block_hashes=list(hashes),
                parent_block_hash=parent,
                token_ids=_token_ids(tokens),
                block_size=self._block_size if tokens else 0,
                lora_id=None,
                medium=DEVICE_MEDIUM,
                lora_name=None,
                group_idx=GROUP,
                kv_cache_spec_kind=KIND,
            )
        )


def _token_ids(tokens: bytes) -> list[int]:
    """The tokenizer has no vocabulary: a token's four bytes are its number."""
    return list(struct.unpack(f">{len(tokens) // BYTES_PER_TOKEN}I", tokens))
