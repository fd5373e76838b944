"""Residency events: over HTTP, and what a subscriber that does not keep up gets."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from llmd_agents import serving
from llmd_agents.engine import EngineServer, load_profile
from llmd_agents.engine.feed import HEARTBEAT, ResidencyFeed
from llmd_agents.hints import RESIDENCY_PATH, ResidencyBatch, ResidencyChange, chain

PROMPT: dict[str, Any] = {
    "model": "m",
    "max_tokens": 1,
    "messages": [
        {"role": "system", "content": "s" * 400},
        {"role": "user", "content": "u" * 400},
    ],
}


@contextmanager
def subscribed(client: httpx.Client) -> Iterator[Iterator[ResidencyBatch]]:
    with client.stream("GET", RESIDENCY_PATH) as response:
        assert response.headers["content-type"] == "text/event-stream"
        yield (
            ResidencyBatch.model_validate_json(line.removeprefix("data: "))
            for line in response.iter_lines()
            if line.startswith("data: ")
        )


def test_subscribers_get_a_snapshot_and_then_every_change() -> None:
    server = EngineServer(load_profile("tiny"), time_scale=1000.0, epoch="e1")
    head, system, user = (link.digest for link in chain(PROMPT))
    with (
        serving.in_background(server) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        subscribed(client) as early,
    ):
        assert next(early) == ResidencyBatch(epoch="e1", seq=0, snapshot=True)
        client.post("/v1/chat/completions", json=PROMPT)
        changes = (
            ResidencyChange(digest=system, tokens=102, resident=True),
            ResidencyChange(digest=user, tokens=204, resident=True),
        )
        assert next(early) == ResidencyBatch(epoch="e1", seq=1, changes=changes)
        with subscribed(client) as late:
            assert next(late) == ResidencyBatch(epoch="e1", seq=1, snapshot=True, changes=changes)
            client.post("/reset_prefix_cache")
            cleared = ResidencyBatch(epoch="e1", seq=2, cleared=True)
            assert (next(early), next(late)) == (cleared, cleared)
        assert head not in {change.digest for change in changes}


def test_epochs_differ() -> None:
    epochs = {EngineServer(load_profile("tiny")).epoch for _ in range(3)}

    assert len(epochs) == 3


def change(name: bytes) -> ResidencyChange:
    return ResidencyChange(digest=name * 16, tokens=1, resident=True)


async def read(events: AsyncIterator[bytes]) -> ResidencyBatch:
    return ResidencyBatch.model_validate(json.loads((await anext(events)).removeprefix(b"data: ")))


def test_slow_subscriber_gets_a_snapshot_instead_of_what_it_missed() -> None:
    async def story() -> None:
        resident: list[ResidencyChange] = []
        feed = ResidencyFeed("e", lambda: tuple(resident), limit=2)

        def publish(name: bytes) -> None:
            resident.append(change(name))
            feed.publish((change(name),))

        publish(b"a")
        with feed.subscribe() as subscription:
            publish(b"b")  # before the snapshot is read, so part of it
            events = feed.events(subscription)
            first = await read(events)
            assert (first.seq, first.snapshot, len(first.changes)) == (2, True, 2)
            publish(b"c")
            assert (await read(events)).seq == 3
            for name in (b"d", b"e", b"f", b"g"):
                publish(name)
            again = await read(events)
            assert (again.seq, again.snapshot, len(again.changes)) == (7, True, 7)
            publish(b"h")
            following = await read(events)
            assert (following.seq, following.snapshot) == (8, False)

    asyncio.run(story())


def test_quiet_feed_sends_heartbeats_and_ends_when_closed() -> None:
    async def story() -> None:
        feed = ResidencyFeed("e", tuple, heartbeat_s=0.0)
        with feed.subscribe() as subscription:
            events = feed.events(subscription)
            await read(events)
            assert await anext(events) == HEARTBEAT
            feed.close()
            assert [event async for event in events] == []
        with feed.subscribe() as subscription:
            assert [event async for event in feed.events(subscription)] == []

    asyncio.run(story())
