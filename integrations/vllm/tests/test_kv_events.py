"""vLLM's own KV events beside `AgentConnector`: they tell what is on the device, in our order too."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq
from vllm import SamplingParams
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch
from vllm.v1.core.kv_cache_utils import get_block_hash
from vllm.v1.request import Request

from harness.connectors import AGENT_CONNECTOR
from harness.hinted import Messages, directed, tip
from harness.in_process import InProcessEngine, in_process
from llmd_agents.hints import Release
from tests.test_agent_connector import CAPACITY, context, flood, plain, run, soon

PATIENCE_MS = 30_000


@dataclass
class Listener:
    """What has been heard since the cache was cleared last.

    Attributes:
        present: hashes of blocks on the device.
        removed: those that have gone, the first first.
    """

    socket: "zmq.Socket[bytes]"
    present: set[bytes] = field(default_factory=set)
    removed: list[bytes] = field(default_factory=list)
    cleared: bool = False
    _seq: int | None = None

    def heard(self, patience_ms: int = PATIENCE_MS) -> bool:
        """Takes in the next batch; returns whether there was one."""
        if not self.socket.poll(patience_ms):
            return False
        topic, seq, payload = self.socket.recv_multipart()
        assert topic == b"kv"
        number = int.from_bytes(seq, "big")
        assert self._seq is None or number == self._seq + 1, "a batch was lost"
        self._seq = number
        for event in msgspec.msgpack.Decoder(KVEventBatch).decode(payload).events:
            match event:
                case BlockStored():
                    self.present.update(map(_bytes, event.block_hashes))
                case BlockRemoved():
                    hashes = [_bytes(each) for each in event.block_hashes]
                    assert self.present.issuperset(hashes)
                    self.present.difference_update(hashes)
                    self.removed += hashes
                case AllBlocksCleared():
                    self.present, self.removed, self.cleared = set(), [], True
        return True

    def hear_until_stored(self, hashes: set[bytes]) -> None:
        while not hashes <= self.present:
            assert self.heard(), "it was not told what a request has computed"


def _bytes(block_hash: bytes | int) -> bytes:
    assert isinstance(block_hash, bytes)
    return block_hash


@contextmanager
def listening() -> Iterator[tuple[Listener, str]]:
    """Yields a listener and the address that it waits at: a publisher goes to one without `*` by itself."""
    with zmq.Context() as zmq_context, zmq_context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"")
        socket.bind("tcp://127.0.0.1:*")
        yield Listener(socket), socket.getsockopt_string(zmq.LAST_ENDPOINT)


def hashes_of(engine: InProcessEngine, messages: Messages) -> list[bytes]:
    """Returns vLLM's hashes of the full blocks of a prompt."""
    request = Request(
        "x", engine.tokens(messages), SamplingParams(max_tokens=1), None,
        block_hasher=engine.core.request_block_hasher,
    )  # fmt: skip
    return [bytes(each) for each in request.block_hashes]


def on_the_device(engine: InProcessEngine) -> set[bytes]:
    keys = [block.block_hash for block in engine.block_pool.blocks]
    return {bytes(get_block_hash(key)) for key in keys if key is not None}


def test_events_tell_what_is_stored_and_what_our_order_gives_up(tiny_model: Path) -> None:
    with listening() as (listener, address):
        events = KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", endpoint=address, topic="kv")
        with in_process(tiny_model, kv_transfer_config=AGENT_CONNECTOR, kv_events_config=events) as engine:
            # The first batches may be lost: nobody waits until the listener is connected to.
            for at in range(50):
                plain(engine, context(f"hello{at}", 40))
                if listener.heard(200):
                    break
            assert engine.llm.reset_prefix_cache()
            kept, old, dead, last = (context(name, 200) for name in ("kept", "old", "dead", "last"))
            for each in (kept, old, dead):
                run(engine, each)
            while not listener.cleared:
                assert listener.heard(), "it was not told of the reset"
            listener.hear_until_stored(
                {block for each in (kept, old, dead) for block in hashes_of(engine, each)}
            )
            assert not listener.removed

            for answer in directed(engine, soon(kept), Release(digest=tip(dead))):
                assert answer["outcome"]["outcome"] == "applied"
            flood(engine, 2 * CAPACITY)
            plain(engine, last)
            listener.hear_until_stored(set(hashes_of(engine, last)))

            while listener.present != on_the_device(engine):
                assert listener.heard(), "what was told is not what is there"
            assert listener.present.issuperset(hashes_of(engine, kept))
            gone = {block: at for at, block in enumerate(listener.removed)}
            first_of_old = min(gone[block] for block in hashes_of(engine, old))
            assert max(gone[block] for block in hashes_of(engine, dead)) < first_of_old
            assert not gone.keys() & set(hashes_of(engine, kept))
