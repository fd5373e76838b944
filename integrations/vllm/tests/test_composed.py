"""`AgentConnector` beside connectors that move bytes, under vLLM's `MultiConnector`."""

import gc
from pathlib import Path
from typing import Any

import pytest

from harness.connectors import composed, host_tier, shared_directory
from harness.hinted import asked, directed, tip
from harness.in_process import in_process
from llmd_agents.hints import Demote, Prefetch, Retain, Warm
from tests.test_agent_connector import BLOCK, context, flood, run, soon, whole


@pytest.fixture(autouse=True)
def _no_tiers_of_earlier_engines() -> None:
    gc.collect()  # they are found as long as they are there


def test_a_prefetch_from_storage_makes_a_device_hit(tiny_model: Path, tmp_path: Path) -> None:
    with in_process(tiny_model, kv_transfer_config=composed(shared_directory(tmp_path))) as engine:
        messages = context("a")
        first = run(engine, messages)
        assert "prefetch" in asked(engine, "kv")["directives"]
        (there,) = directed(engine, Prefetch(digest=tip(messages), tier="storage"))
        assert there["outcome"]["outcome"] == "applied"
        (demoted,) = directed(engine, Demote(digest=tip(messages), tier="storage"))
        assert demoted["outcome"]["reason"] is None
        (answer,) = directed(engine, Prefetch(digest=tip(messages), tier="storage"))
        assert tuple(answer["ahead"]["tokens"]) == first.prompt
        assert answer["ahead"]["salt"] is None
        loaded = engine.generate(answer["ahead"]["tokens"], max_tokens=1)
        assert loaded.cached_tokens > 0
        again = run(engine, messages)
        assert again.cached_tokens == whole(again)
        assert again.output == first.output


def test_estimates_and_the_host_tier_go_together(tiny_model: Path) -> None:
    with in_process(tiny_model, kv_transfer_config=composed(host_tier(40_000_000))) as engine:
        messages = context("a")
        first = run(engine, messages)
        for at in range(3):
            run(engine, [*messages, {"role": "user", "content": f"And {at}?"}])
        flood(engine, 159 * BLOCK)
        (snapshot,) = asked(engine, "residency", {"since": None, "epoch": None})
        tiers = {change["tier"] for change in snapshot["changes"] if change["digest"] == tip(messages).hex()}
        assert tiers == {"host"}
        (answer,) = directed(engine, Retain(digest=tip(messages), after=0.01, sigma=0.3, expires=600.0))
        assert answer["outcome"]["outcome"] == "applied"
        (answer,) = directed(engine, Prefetch(digest=tip(messages), tier="host"))
        engine.generate(answer["ahead"]["tokens"], max_tokens=1)
        again = run(engine, messages)
        assert again.cached_tokens == whole(again)
        assert again.output == first.output


def test_beside_storage_of_which_nothing_is_known(tiny_model: Path, tmp_path: Path) -> None:
    theirs: dict[str, Any] = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)},
    }
    with in_process(tiny_model, kv_transfer_config=composed(theirs)) as engine:
        messages = context("a", 120)
        first = run(engine, messages)
        assert first.cached_tokens == 0
        assert list(asked(engine, "kv")["directives"]) == ["retain", "release", "warm"]

        assert engine.llm.reset_prefix_cache()
        before = engine.counters()
        again = run(engine, messages)
        assert again.output == first.output
        assert (engine.counters() - before).cached_by_source == {"external_unspecified": whole(first)}

        (applied,) = directed(engine, soon(messages))
        assert applied["outcome"]["outcome"] == "applied"
        for tier in ("host", "storage"):
            for cannot in (
                Prefetch(digest=tip(messages), tier=tier),
                Demote(digest=tip(messages), tier=tier),
            ):
                (answer,) = directed(engine, cannot)
                assert answer["outcome"]["outcome"] == "unsupported"

        assert engine.llm.reset_prefix_cache()
        (answer,) = directed(engine, Warm(digest=tip(messages)))
        tokens = answer["ahead"]["tokens"]
        assert tuple(tokens) == first.prompt
        assert engine.generate(tokens, max_tokens=1).cached_tokens == whole(first)
        asked(engine, "brought", len(tokens))
        before = engine.counters()
        assert run(engine, messages).output == first.output
        assert (engine.counters() - before).cached_by_source == {"device": whole(first)}
