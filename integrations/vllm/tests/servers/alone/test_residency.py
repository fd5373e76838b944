"""Who listens to an engine hears what it holds: first all of it, then every change in sequence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.engines import Engine
from harness.hinted import tip
from llmd_agents.hints import RESIDENCY_PATH, residency_scope
from tests.servers.fleet import CAPACITY, Fleet, context, flood, forget


@contextmanager
def listening(engine: Engine) -> Iterator[Iterator[dict[str, Any]]]:
    with engine.client.stream("GET", RESIDENCY_PATH) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        yield (json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:"))


def told(batches: Iterator[dict[str, Any]], digest: bytes, *, resident: bool = True) -> list[dict[str, Any]]:
    """Returns the batches up to the one that tells of a context."""
    heard = []
    for batch in batches:
        heard.append(batch)
        for change in batch["changes"]:
            if change["digest"] == digest.hex() and change["resident"] is resident:
                return heard
    raise AssertionError("the stream has ended")


def test_a_listener_hears_all_that_is_there_and_every_change(engines: Fleet) -> None:
    engine = engines.engines[0]
    before, after = context("before"), context("after")
    prompt_tokens = engine.chat(before)["usage"]["prompt_tokens"]
    with listening(engine) as batches:
        snapshot = next(batches)
        assert snapshot["snapshot"]
        held = {change["digest"]: change for change in snapshot["changes"]}
        assert held[tip(before).hex()] == {
            "digest": tip(before).hex(),
            "scope": None,
            "tier": "device",
            "tokens": prompt_tokens,
            "resident": True,
        }
        engine.chat(after)
        heard = told(batches, tip(after))
        flood(engine, 2 * CAPACITY)
        heard += told(batches, tip(after), resident=False)
        assert [batch["seq"] for batch in heard] == [snapshot["seq"] + 1 + at for at in range(len(heard))]
        assert {batch["epoch"] for batch in heard} == {snapshot["epoch"]}
        assert not any(batch["snapshot"] or batch["cleared"] for batch in heard)


def test_a_reset_is_told_and_what_follows_it(engines: Fleet) -> None:
    engine = engines.engines[0]
    engine.chat(context("cleared"))
    with listening(engine) as batches:
        snapshot = next(batches)
        assert tip(context("cleared")).hex() in {change["digest"] for change in snapshot["changes"]}
        forget(engine)
        cleared = next(batches)
        assert cleared["cleared"]
        assert cleared["seq"] == snapshot["seq"] + 1
        assert cleared["changes"] == []
        engine.chat(context("cleared"))
        (again,) = told(batches, tip(context("cleared")))
        assert again["seq"] == cleared["seq"] + 1
    with listening(engine) as batches:
        assert next(batches)["seq"] >= again["seq"]


def test_a_tenant_s_contexts_are_told_under_its_scope(engines: Fleet) -> None:
    engine = engines.engines[0]
    messages = context("theirs")
    with listening(engine) as batches:
        next(batches)
        engine.chat(messages, cache_salt="a tenant's salt")
        scopes = {change["scope"] for batch in told(batches, tip(messages)) for change in batch["changes"]}
    assert scopes == {residency_scope("a tenant's salt")}
