"""`AgentConnector` in a real engine: what the next prompt finds cached, by vLLM's own count."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.connectors import AGENT_CONNECTOR
from harness.hinted import asked, carried, digests, directed, tip
from harness.in_process import Answer, InProcessEngine, in_process
from llmd_agents.hints import (
    Demote,
    Forecast,
    Hints,
    Next,
    Prefetch,
    Program,
    Release,
    Retain,
    Step,
    Warm,
    residency_scope,
)
from llmd_agents_vllm.connector import AgentConnector
from llmd_agents_vllm.options import BadOptions

BLOCK = 32


def context(name: str, words: int = 400) -> list[dict[str, str]]:
    """A conversation of about `words` times three tokens that shares nothing with one of another name."""
    system = f"{name} keeps what follows. " + f"word {name} " * (words // 2)
    return [{"role": "system", "content": system}, {"role": "user", "content": "Go on."}]


def run(
    engine: InProcessEngine, messages: list[dict[str, str]], hints: Hints | None = None, **k: Any
) -> Answer:
    return engine.generate(messages, kv_transfer_params=carried(messages, hints), **k)


def plain(engine: InProcessEngine, messages: list[dict[str, str]]) -> Answer:
    return engine.generate(messages)


def flood(engine: InProcessEngine, tokens: int) -> None:
    """Computes so many tokens of prompts that nobody has seen, none of them hinted at."""
    flood.at = getattr(flood, "at", 0)  # type: ignore[attr-defined]
    done = 0
    while done < tokens:
        flood.at += 1  # type: ignore[attr-defined]
        done += len(plain(engine, context(f"flood{flood.at}")).prompt)  # type: ignore[attr-defined]


def whole(answer: Answer) -> int:
    """Returns how many of a prompt's tokens a complete hit covers."""
    return (len(answer.prompt) - 1) // BLOCK * BLOCK


def soon(messages: list[dict[str, str]], **k: Any) -> Retain:
    return Retain(digest=tip(messages), after=0.01, sigma=0.3, expires=3600.0, **k)


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Iterator[InProcessEngine]:
    with in_process(tiny_model, kv_transfer_config=AGENT_CONNECTOR) as engine:
        yield engine


@pytest.fixture
def engine(running: InProcessEngine) -> InProcessEngine:
    assert running.llm.reset_prefix_cache()
    return running


CAPACITY = 159 * BLOCK


def test_without_hints_a_flood_takes_everything(engine: InProcessEngine) -> None:
    run(engine, context("a"))
    flood(engine, CAPACITY)
    assert run(engine, context("a")).cached_tokens == 0


def test_a_retained_context_survives_a_flood(engine: InProcessEngine) -> None:
    run(engine, context("a"))
    (answer,) = directed(engine, soon(context("a")))
    assert answer["outcome"]["outcome"] == "applied"
    flood(engine, 3 * CAPACITY)
    again = run(engine, context("a"))
    assert again.cached_tokens == whole(again) > 0


@pytest.mark.parametrize("released", [False, True])
def test_a_released_context_goes_first(engine: InProcessEngine, released: bool) -> None:
    old = run(engine, context("old"))
    run(engine, context("dead"))
    if released:
        (answer,) = directed(engine, Release(digest=tip(context("dead"))))
        assert answer["outcome"]["outcome"] == "applied"
    flood(engine, CAPACITY - 2 * len(old.prompt) + BLOCK)
    again = run(engine, context("old"))
    assert again.cached_tokens == whole(again) if released else again.cached_tokens < whole(again)


def test_the_next_use_revives_what_was_released(engine: InProcessEngine) -> None:
    run(engine, context("a"))
    directed(engine, Release(digest=tip(context("a"))))
    assert run(engine, context("a")).cached_tokens > 0
    flood(engine, CAPACITY // 2)
    assert run(engine, context("a")).cached_tokens > 0


def test_a_header_alone_retains_and_releases(engine: InProcessEngine) -> None:
    step = Step(id="s1")
    waits = Hints(
        program=Program(id="p1"), step=step, forecast=Forecast(next=Next.TOOL, after=0.01, sigma=0.3)
    )
    ends = Hints(program=Program(id="p2"), step=step, forecast=Forecast(next=Next.END))
    run(engine, context("waits"), waits)
    run(engine, context("plain"))
    run(engine, context("ends"), ends)
    flood(engine, CAPACITY // 2)
    assert run(engine, context("plain")).cached_tokens > 0
    assert run(engine, context("ends")).cached_tokens == 0
    flood(engine, 2 * CAPACITY)
    assert run(engine, context("waits")).cached_tokens > 0
    assert run(engine, context("plain")).cached_tokens == 0


def test_with_everything_retained_a_request_that_needs_the_cache_runs_at_once(
    engine: InProcessEngine,
) -> None:
    for at in range(4):
        run(engine, context(f"kept{at}"))
        directed(engine, soon(context(f"kept{at}")))
    steps = engine.scheduler.current_step
    prompt = list(range(3, 3 + 900)) * 4
    answer = engine.generate(prompt[:3500], max_tokens=1)
    assert len(answer.output) == 1
    chunks = -(-3500 // engine.scheduler.max_num_scheduled_tokens)
    assert engine.scheduler.current_step - steps <= chunks + 1, "it waited for room"


def test_requests_preempt_each_other_with_blocks_held(engine: InProcessEngine) -> None:
    # Five prompts fill the cache: they cannot all have their answers there at once.
    prompts = [context(f"long{at}", 250) for at in range(6)]
    # Without the penalty the tiny model says one token again and again, whatever its context.
    telling: dict[str, Any] = {"max_tokens": 300, "presence_penalty": 2}
    alone = [engine.generate(each, **telling).output for each in prompts]
    assert len(set(alone)) == len(prompts)
    assert engine.llm.reset_prefix_cache()
    run(engine, context("held"))
    (answer,) = directed(engine, soon(context("held")))
    assert answer["outcome"]["outcome"] == "applied"
    before = engine.counters().preemptions
    together = engine.generate_all(prompts, **telling)
    assert engine.counters().preemptions > before
    assert [answer.output for answer in together] == alone
    assert engine.block_pool.get_num_free_blocks() == 159


def test_another_tenants_context_is_unknown(engine: InProcessEngine) -> None:
    run(engine, context("a"))
    other = residency_scope("another tenant")
    for directive in (soon(context("a"), scope=other), Release(digest=tip(context("a")), scope=other)):
        (answer,) = directed(engine, directive)
        assert answer["outcome"]["outcome"] == "rejected"


@pytest.mark.parametrize(
    ("directive", "outcome", "reason"),
    [
        (Retain(digest=b"x" * 16, after=1.0, expires=2.0), "rejected", "unknown digest"),
        (Release(digest=b"x" * 16), "rejected", "unknown digest"),
        (Prefetch(digest=b"x" * 16, tier="host"), "unsupported", "no host tier"),
        (Prefetch(digest=b"x" * 16, tier="no such tier"), "unsupported", "no no such tier tier"),
        (Prefetch(digest=b"x" * 16, peer="http://127.0.0.1:1"), "unsupported", "through its storage"),
        (Demote(digest=b"x" * 16), "unsupported", "no host tier"),
        (Warm(digest=b"x" * 16), "rejected", "remembers no prompt"),
    ],
)
def test_what_cannot_be_done_is_refused_alone(
    engine: InProcessEngine, directive: Any, outcome: str, reason: str
) -> None:
    run(engine, context("a", 40))
    refused, done = directed(engine, directive, soon(context("a", 40)))
    assert refused["outcome"]["outcome"] == outcome
    assert reason in refused["outcome"]["reason"]
    assert done["outcome"]["outcome"] == "applied"


def test_ten_thousand_directives_do_the_engine_no_harm(engine: InProcessEngine) -> None:
    run(engine, context("a", 40))
    for start in range(0, 10_000, 1000):
        unknown = [Release(digest=(start + at).to_bytes(16)) for at in range(1000)]
        answers = directed(engine, *unknown)
        assert {answer["outcome"]["outcome"] for answer in answers} == {"rejected"}
    assert run(engine, context("a", 40)).cached_tokens > 0


def test_what_is_no_message_is_refused(engine: InProcessEngine) -> None:
    with pytest.raises(RuntimeError):
        asked(engine, "direct", "no JSON")
    with pytest.raises(RuntimeError):
        asked(engine, "no such question")
    assert engine.connector is not None
    assert run(engine, context("a", 40)).cached_tokens == 0
    assert asked(engine, "kv")["epoch"]


def test_residency_is_told_in_sequence_and_after_a_reset(engine: InProcessEngine) -> None:
    (snapshot,) = asked(engine, "residency", {"since": None, "epoch": None})
    assert snapshot["snapshot"]
    epoch = snapshot["epoch"]
    messages = context("a")
    answer = run(engine, messages)
    batches = asked(engine, "residency", {"since": snapshot["seq"], "epoch": epoch})
    assert [batch["seq"] for batch in batches] == list(
        range(snapshot["seq"] + 1, snapshot["seq"] + 1 + len(batches))
    )
    told = {change["digest"]: change["tokens"] for batch in batches for change in batch["changes"]}
    assert told[tip(messages).hex()] == len(answer.prompt)
    assert asked(engine, "residency", {"since": batches[-1]["seq"], "epoch": epoch}) == []
    assert engine.llm.reset_prefix_cache()
    cleared = asked(engine, "residency", {"since": batches[-1]["seq"], "epoch": epoch})
    assert cleared[0]["cleared"]
    (again,) = asked(engine, "residency", {"since": 5, "epoch": "another run"})
    assert again["snapshot"]
    assert again["changes"] == []


def test_a_step_that_extends_another_teaches_where_that_ended(engine: InProcessEngine) -> None:
    first = context("a")
    run(engine, first)
    longer = [*first, {"role": "assistant", "content": "Done."}, {"role": "user", "content": "More. " * 60}]
    run(engine, longer)
    (snapshot,) = asked(engine, "residency", {"since": None, "epoch": None})
    told = {change["digest"]: change["tokens"] for change in snapshot["changes"]}
    ends = [told[digest.hex()] for digest in digests(longer) if digest.hex() in told]
    assert ends == sorted(ends)
    assert told[tip(longer).hex()] - told[tip(first).hex()] > 60


def test_a_fault_of_ours_leaves_vllms_own_order(tiny_model: Path, engine: InProcessEngine) -> None:
    connector = engine.connector
    assert isinstance(connector, AgentConnector)
    side = connector.engine_side
    assert side is not None
    collector = engine.block_pool.metrics_collector
    try:
        engine.llm.llm_engine.engine_core.engine_core.scheduler.connector.engine_side = _Broken(side)
        assert len(run(engine, context("a")).output) == 8
        assert connector.engine_side is None
        assert len(run(engine, context("a")).output) == 8
        with pytest.raises(RuntimeError, match="not in use"):
            asked(engine, "kv")
        assert engine.block_pool.metrics_collector is not collector
    finally:
        engine.block_pool.metrics_collector = collector
        connector.engine_side = side


class _Broken:
    def __init__(self, side: Any) -> None:
        self._side = side

    def arrived(self, request: Any) -> None:
        raise ZeroDivisionError

    def close(self) -> None:
        self._side.close()


def test_an_unknown_option_is_named(tiny_model: Path) -> None:
    config = {**AGENT_CONNECTOR, "kv_connector_extra_config": {"retention": 1}}
    with (
        pytest.raises(BadOptions, match=r"AgentConnector: retention: .* options: retention_budget,"),
        in_process(tiny_model, kv_transfer_config=config),
    ):
        pass
