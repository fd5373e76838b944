"""KV events: what the records mean, how they travel, and that nobody who listens can hold the engine up."""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import pytest
import zmq
import zmq.asyncio

from llmd_agents.engine import EngineCore, EngineServer
from llmd_agents.engine import kv_events_publisher as publisher_module
from llmd_agents.engine.kv_events import (
    END_OF_REPLAY,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KvEvent,
    KvEventBatch,
    decode_batch,
    encode_batch,
)
from llmd_agents.engine.kv_events_publisher import BadEndpoint, KvEventPublisher
from llmd_agents.engine.kv_events_source import KvEventSource
from llmd_agents.engine.records import Loaded
from llmd_agents.hints import Prefetch, Tier
from llmd_agents.serving import in_background
from tests.engine.stories import digest, profile, request, run, words
from tests.stack.servers import FAST, engine_process, small_profile

LOOPBACK = "tcp://127.0.0.1:*"


def numbers(text: str) -> list[int]:
    data = words(text)
    return [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]


def shown(events: Sequence[KvEvent], names: dict[Any, str]) -> list[str]:
    """Events as short lines; hashes are named by the text that they stand for."""
    lines = []
    for event in events:
        match event:
            case BlockStored():
                letters = "".join(chr(token >> 24) for token in event.token_ids)
                size = event.block_size
                parent = names[event.parent_block_hash] if event.parent_block_hash is not None else ""
                for index, block_hash in enumerate(event.block_hashes):
                    before = parent + letters[: index * size]
                    names[block_hash] = before + letters[index * size : (index + 1) * size]
                lines.append(f"{parent}+{letters}")
            case BlockRemoved():
                lines.append("-" + " ".join(names[block_hash] for block_hash in event.block_hashes))
            case AllBlocksCleared():
                lines.append("cleared")
    return lines


def stored(events: Sequence[KvEvent]) -> list[BlockStored]:
    return [event for event in events if isinstance(event, BlockStored)]


class Engine:
    """A core whose events are taken after each run."""

    def __init__(self, **sizes: Any) -> None:
        self.profile = profile(**sizes)
        self.source = KvEventSource(self.profile)
        self.core = EngineCore(self.profile, eviction="lru", listener=self.source)
        self.names: dict[Any, str] = {}

    def run(self, *requests: Any, now: float = 0.0) -> list[str]:
        run(self.core, *requests, now=now)
        return self.take()

    def take(self) -> list[str]:
        return shown(self.source.take(), self.names)


# --- what records mean


def test_blocks_are_stored_as_they_fill_and_removed_as_they_go() -> None:
    engine = Engine(num_blocks=6)
    assert engine.run(request("r1", "abcdefgh!", "xyz")) == ["+abcdefgh"]
    # The prefix is hit, and told no second time.
    assert engine.run(request("r2", "abcdefgh!", "12345")) == ["abcdefgh+!123"]
    # Two blocks are still empty; the tail of what is cached goes for the third.
    assert engine.run(request("r3", "ijklmnopqrs")) == ["-abcdefgh!123", "+ijklmnop"]
    assert engine.core.reset_prefix_cache()
    assert engine.take() == ["cleared"]
    assert engine.run(request("r4", "abcdefgh!")) == ["+abcdefgh"]


def test_an_event_has_the_fields_that_vllm_fills() -> None:
    source = KvEventSource(profile())
    run(EngineCore(profile(), listener=source), request("r", "abcdefgh"))
    (event,) = stored(source.take())
    assert event == BlockStored(
        block_hashes=event.block_hashes,
        parent_block_hash=None,
        token_ids=numbers("abcdefgh"),
        block_size=4,
        lora_id=None,
        medium="GPU",
        lora_name=None,
        group_idx=0,
        kv_cache_spec_kind="full_attention",
    )
    assert [len(block) for block in event.block_hashes if isinstance(block, bytes)] == [16, 16]


def test_what_is_loaded_from_a_lower_tier_is_told_with_its_tokens() -> None:
    engine = Engine(num_blocks=5, host_blocks=20)
    assert engine.run(request("r1", "abcdefghijkl", boundaries=[("x", 12)])) == ["+abcdefghijkl"]
    assert engine.run(request("r2", "0123456789ABCDE")) == [
        "-abcdefghijkl abcdefgh abcd", "+0123456789AB"
    ]  # fmt: skip
    engine.core.direct("d1", Prefetch(digest=digest("x"), tier=Tier.HOST), 100.0)
    assert engine.take() == []
    assert engine.run() == ["+abcd"]  # a quarter of the device is there for what comes ahead of need
    again = engine.run(request("r3", "abcdefghijkl9"), now=200.0)
    assert again == ["-0123456789AB 01234567", "abcd+efghijkl", "-0123"]
    assert engine.core.transferred_bytes["host"] == 3 * 4


def test_what_was_copied_and_never_seen_is_told_without_tokens() -> None:
    source = KvEventSource(profile(host_blocks=5))
    source(Loaded("peer", (b"1" * 16, b"2" * 16)))
    assert [(event.block_hashes, event.token_ids, event.block_size) for event in stored(source.take())] == [
        ([b"1" * 16], [], 0),
        ([b"2" * 16], [], 0),
    ]


def test_what_a_subscriber_counts_is_what_the_device_holds() -> None:
    happened: Counter[str] = Counter()
    for seed in range(6):
        draw = random.Random(seed)
        sizes = profile(num_blocks=20, host_blocks=draw.choice([0, 30]), max_num_seqs=4)
        source = KvEventSource(sizes)
        core = EngineCore(sizes, eviction="lru", listener=source)
        held: dict[Any, list[int]] = {}
        now, under_way = 0.0, []
        for turn in range(400):
            if draw.random() < 0.3:
                text = draw.choice(["abcdefgh", "abcdijkl", "mnop"]) * draw.randint(1, 4)
                core.add(request(f"r{turn}", text + "?" * draw.randint(0, 9), "out" * 4), now)
                under_way.append(f"r{turn}")
            elif draw.random() < 0.03 and under_way:
                core.abort(under_way.pop(draw.randrange(len(under_way))))
            elif draw.random() < 0.02:
                core.reset_prefix_cache()
            now = max(now, core.next_event() or now) if not core.has_work else now
            now += core.step(now).duration_s
            for event in source.take():
                match event:
                    case BlockStored():
                        assert len(event.token_ids) == event.block_size * len(event.block_hashes)
                        assert event.parent_block_hash is None or event.parent_block_hash in held
                        held.update(dict.fromkeys(event.block_hashes, event.token_ids))
                    case BlockRemoved():
                        for block_hash in event.block_hashes:
                            del held[block_hash]
                    case AllBlocksCleared():
                        held.clear()
            assert set(held) == set(core._cache.pool._cached)
        assert len(source._known) <= (50 if sizes.host_blocks else 0)
        happened.update({"preempted": core.num_preemptions, "loaded": core.transferred_bytes["host"]})
    assert happened["preempted"]
    assert happened["loaded"]


# --- the wire


def test_a_batch_is_written_as_vllm_writes_it() -> None:
    stored = BlockStored([b"h" * 16], None, [1, 2], 2, None, "GPU", None, group_idx=0)
    batch = KvEventBatch(1.5, [stored, BlockRemoved([b"h" * 16], "GPU", 0), AllBlocksCleared()], 0)
    data = encode_batch(batch)
    assert decode_batch(data) == batch
    assert msgspec.msgpack.decode(data) == [
        1.5,
        [
            {
                "type": "BlockStored",
                "block_hashes": [b"h" * 16],
                "parent_block_hash": None,
                "token_ids": [1, 2],
                "block_size": 2,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "group_idx": 0,
            },
            {"type": "BlockRemoved", "block_hashes": [b"h" * 16], "medium": "GPU", "group_idx": 0},
            {"type": "AllBlocksCleared"},
        ],
        0,
    ]


# --- sockets


async def received(socket: zmq.asyncio.Socket) -> list[bytes]:
    async with asyncio.timeout(10):
        frames: list[bytes] = await socket.recv_multipart()
        return frames


async def subscribed(context: zmq.asyncio.Context, publisher: KvEventPublisher) -> zmq.asyncio.Socket:
    """Returns a subscriber that gets what is published from now on."""
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(publisher.endpoint)
    while not await socket.poll(10):
        publisher.publish([AllBlocksCleared()])
    while await socket.poll(50):
        await received(socket)
    return socket


async def asked_again(context: zmq.asyncio.Context, endpoint: str, first: int) -> list[tuple[bytes, bytes]]:
    socket = context.socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.connect(endpoint)
    await socket.send_multipart([b"", first.to_bytes(8, "big")])
    batches: list[tuple[bytes, bytes]] = []
    while True:
        empty, topic, number, batch = await received(socket)
        assert empty == b""
        if number == END_OF_REPLAY:
            assert (topic, batch) == (b"", b"")
            socket.close(0)
            return batches
        batches.append((number, batch))


def test_a_subscriber_follows_a_run_and_gets_what_it_missed() -> None:
    publisher = KvEventPublisher(LOOPBACK, topic="kv@tiny", replay_endpoint=LOOPBACK)
    engine = EngineServer(small_profile(num_blocks=65), time_scale=FAST, kv_events=publisher)

    async def listen() -> tuple[list[list[bytes]], list[tuple[bytes, bytes]]]:
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.SUBSCRIBE, b"kv@")
        socket.connect(publisher.endpoint)
        try:
            async with httpx.AsyncClient(base_url=url) as http:

                async def call(text: str) -> None:
                    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 2}
                    (await http.post("/v1/chat/completions", json=body)).raise_for_status()

                while not await socket.poll(20):  # until the subscription has arrived
                    await call("hello " * 20)
                    (await http.post("/reset_prefix_cache")).raise_for_status()
                for letter in "abc":
                    await call(letter * 3000)
                (await http.post("/reset_prefix_cache")).raise_for_status()
                await call("the last one " * 10)
            got = []
            while await socket.poll(500):
                got.append(await received(socket))
            assert publisher.replay_endpoint is not None
            return got, await asked_again(context, publisher.replay_endpoint, 0)
        finally:
            context.destroy(linger=0)

    with in_background(engine) as url:
        got, kept = asyncio.run(listen())
    assert {topic for topic, _, _ in got} == {b"kv@tiny"}
    sequence = [int.from_bytes(number, "big") for _, number, _ in got]
    assert sequence == list(range(sequence[0], sequence[0] + len(got)))
    assert [int.from_bytes(number, "big") for number, _ in kept] == list(range(sequence[-1] + 1))
    assert kept[sequence[0] :] == [(number, batch) for _, number, batch in got]
    events = [event for _, batch in kept for event in decode_batch(batch).events]
    kinds = {type(event) for event in events}
    assert kinds == {BlockStored, BlockRemoved, AllBlocksCleared}
    held: set[Any] = set()
    for event in events:
        if isinstance(event, BlockStored):
            held.update(event.block_hashes)
        elif isinstance(event, BlockRemoved):
            held.difference_update(event.block_hashes)
        else:
            held.clear()
    assert len(held) == 2  # of the last call: 35 tokens


def test_a_replay_begins_where_it_is_asked_to_and_nonsense_is_ignored() -> None:
    async def main() -> None:
        publisher = KvEventPublisher(LOOPBACK, replay_endpoint=LOOPBACK)
        publisher.start()
        endpoint = publisher.replay_endpoint
        assert endpoint is not None
        context = zmq.asyncio.Context()
        for _ in range(5):
            publisher.publish([AllBlocksCleared()])
        publisher.publish([])
        hostile = context.socket(zmq.DEALER)
        hostile.connect(endpoint)
        for frames in ([b""], [b"", b"123"], [b"", b"", b"", b""], [b"x" * 64], [b"", b"\xff" * 64]):
            await hostile.send_multipart(frames)
        after = await asked_again(context, endpoint, 3)
        assert [int.from_bytes(number, "big") for number, _ in after] == [3, 4]
        assert await asked_again(context, endpoint, 99) == []
        assert not await hostile.poll(50)
        context.destroy(linger=0)
        await publisher.close()
        publisher.publish([AllBlocksCleared()])  # of no effect, and no error

    asyncio.run(main())


def test_what_is_kept_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    async def kept(most: int, most_bytes: int) -> list[int]:
        monkeypatch.setattr(publisher_module, "KEPT_MAX", most)
        monkeypatch.setattr(publisher_module, "KEPT_MAX_BYTES", most_bytes)
        publisher = KvEventPublisher(LOOPBACK, replay_endpoint=LOOPBACK)
        publisher.start()
        for _ in range(10):
            publisher.publish([BlockRemoved([b"h" * 1000], "GPU", 0)])
        context = zmq.asyncio.Context()
        assert publisher.replay_endpoint is not None
        batches = await asked_again(context, publisher.replay_endpoint, 0)
        context.destroy(linger=0)
        await publisher.close()
        return [int.from_bytes(number, "big") for number, _ in batches]

    assert asyncio.run(kept(4, 1 << 20)) == [6, 7, 8, 9]
    assert asyncio.run(kept(100, 3500)) == [7, 8, 9]


def test_a_subscriber_that_reads_nothing_loses_events_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "HIGH_WATER_MARK", 10)

    async def main() -> None:
        publisher = KvEventPublisher(LOOPBACK)
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.RCVHWM, 10)
        socket = await subscribed(context, publisher)
        big = BlockStored([b"h" * 16], None, list(range(100_000)), 16, None, "GPU", None)
        for _ in range(200):  # some 60 MB, of which the sockets' buffers take a part
            publisher.publish([big])
        numbers = []
        while await socket.poll(500):
            numbers.append(int.from_bytes((await received(socket))[1], "big"))
        assert 0 < len(numbers) < 200
        context.destroy(linger=0)
        await publisher.close()

    asyncio.run(main())


def test_an_address_without_a_wildcard_is_connected_to() -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        indexer = context.socket(zmq.SUB)
        indexer.setsockopt(zmq.SUBSCRIBE, b"")
        port = indexer.bind_to_random_port("tcp://127.0.0.1")
        publisher = KvEventPublisher(f"tcp://127.0.0.1:{port}")
        assert not publisher.binds
        while not await indexer.poll(10):
            publisher.publish([AllBlocksCleared()])
        assert decode_batch((await received(indexer))[2]).events == [AllBlocksCleared()]
        await publisher.close()
        context.destroy(linger=0)

    asyncio.run(main())


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp://", "udp://*:1", "tcp://nowhere.invalid*:x"])
def test_what_is_no_address(endpoint: str) -> None:
    with pytest.raises(BadEndpoint) as caught:
        KvEventPublisher(endpoint)
    assert str(caught.value).startswith(f"{endpoint}: ")


# --- the command


def test_the_command_publishes() -> None:
    where = ("--kv-events-endpoint", LOOPBACK, "--kv-events-replay-endpoint", LOOPBACK)
    with engine_process("--profile", "tiny", "--kv-events-topic", "kv", *where, stderr=subprocess.PIPE) as (
        process,
        url,
    ):
        assert process.stderr is not None
        said = process.stderr.readline().decode()
        assert said.startswith("KV events: subscribers connect to tcp://127.0.0.1:")
        replay = said.split("replay at ")[1].strip()
        body = {"model": "m", "messages": [{"role": "user", "content": "z" * 200}], "max_tokens": 1}
        httpx.post(f"{url}/v1/chat/completions", json=body, timeout=10).raise_for_status()

        async def kept() -> list[tuple[bytes, bytes]]:
            context = zmq.asyncio.Context()
            batches = await asked_again(context, replay, 0)
            context.destroy(linger=0)
            return batches

        ((number, batch),) = asyncio.run(kept())
        process.stderr.close()
    assert number == bytes(8)
    assert isinstance(decode_batch(batch).events[0], BlockStored)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kv-events-endpoint", "nonsense"), "KV events: nonsense: Invalid argument"),
        (("--kv-events-topic", "kv"), "need --kv-events-endpoint"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "llmd_agents", "engine", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_one_line_says_which_package_is_missing() -> None:
    script = (
        "import sys; sys.modules['zmq'] = None; sys.argv[1:] = " + json.dumps(
            ["engine", "--kv-events-endpoint", LOOPBACK]
        ) + "; from llmd_agents.cli import main; main()"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'llmd-agents[kv-events]'" in done.stderr
