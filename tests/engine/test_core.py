"""Small stories: what is computed, cached, given up and preempted, step by step."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest

from llmd_agents.engine import (
    Block,
    EngineCore,
    EngineRequest,
    LeastRecentlyUsed,
    Progress,
    Record,
    RequestStats,
    RequestTooLarge,
)
from tests.engine.stories import log, profile, request, run


def finished(core: EngineCore, *requests: EngineRequest) -> dict[str, RequestStats]:
    return {stats.request_id: stats for output in run(core, *requests) for stats in output.finished}


def test_one_request_from_arrival_to_end() -> None:
    records: list[Record] = []
    core = EngineCore(profile(), listener=records.append)

    core.add(request("a", "abcdefghij", "xyz"), 5.0)
    outputs = run(core, now=7.0)

    assert log(records) == [
        "queued a",
        "admitted a 0",
        "scheduled a 0 10",
        "scheduled a 10 11",
        "scheduled a 11 12",
        "finished a",
    ]
    assert [output.duration_s for output in outputs] == pytest.approx([2.0, 1.01, 1.01])
    assert [output.tokens for output in outputs] == [{"a": 1}] * 3
    (stats,) = outputs[-1].finished
    assert dataclasses.replace(stats, finish_s=0.0) == RequestStats(
        request_id="a",
        arrival_s=5.0,
        first_scheduled_s=7.0,
        first_token_s=9.0,
        finish_s=0.0,
        prompt_tokens=10,
        cached_tokens=0,
        output_tokens=3,
        preemptions=0,
    )
    assert (stats.queue_s, stats.ttft_s) == (2.0, 4.0)
    assert stats.e2e_s == pytest.approx(6.02)
    assert core.cache_usage == 0.0


def test_idle_step_takes_no_time() -> None:
    output = EngineCore(profile()).step(1.0)

    assert (output.duration_s, output.tokens, output.finished) == (0.0, {}, ())


@pytest.mark.parametrize(
    ("prompt", "cached"),
    [
        ("abcdefghij", 8),  # whole blocks only
        ("abcdefgh", 4),  # the last token is computed again, and its whole block with it
        ("abcdefghi", 8),
        ("abcd", 0),
        ("abcdXfghij", 4),
        ("Xbcdefghij", 0),
    ],
)
def test_prefix_of_an_earlier_prompt_is_hit(prompt: str, cached: int) -> None:
    core = EngineCore(profile())
    run(core, request("first", "abcdefghij"))

    assert finished(core, request("second", prompt))["second"].cached_tokens == cached


@pytest.mark.parametrize(("output", "cached"), [("ghijkl", 8), ("ghijklm", 12)])
def test_generated_tokens_are_hit_but_for_the_last_which_was_never_computed(output: str, cached: int) -> None:
    core = EngineCore(profile())
    run(core, request("first", "abcdef", output))

    assert finished(core, request("all", "abcdefghijkl+"))["all"].cached_tokens == cached


def test_roots_share_nothing() -> None:
    core = EngineCore(profile())
    run(core, request("first", "abcdefghij"))

    assert finished(core, request("other", "abcdefghij", root=b"salted"))["other"].cached_tokens == 0


def test_requests_of_one_step_share_what_the_first_of_them_fills() -> None:
    core = EngineCore(profile())

    stats = finished(core, request("a", "abcdefghij"), request("b", "abcdefghkl"))

    assert (stats["a"].cached_tokens, stats["b"].cached_tokens) == (0, 8)
    assert stats["a"].first_token_s == stats["b"].first_token_s == pytest.approx(2.2)


def test_long_prompt_is_computed_in_chunks_after_those_who_decode() -> None:
    records: list[Record] = []
    core = EngineCore(profile(max_num_batched_tokens=6), listener=records.append)
    core.add(request("a", "abc", "123"), 0.0)
    core.step(0.0)
    core.add(request("b", "klmnopqrstu"), 0.0)
    run(core)

    assert log(records)[3:] == [
        "queued b",
        "scheduled a 3 4",
        "admitted b 0",
        "scheduled b 0 5",
        "scheduled a 4 5",
        "scheduled b 5 10",
        "finished a",
        "scheduled b 10 11",
        "finished b",
    ]


def test_no_more_run_at_once_than_allowed() -> None:
    core = EngineCore(profile(max_num_seqs=1))
    core.add(request("a", "abc", "12"), 0.0)
    core.add(request("b", "klm"), 0.0)

    core.step(0.0)

    assert (core.num_running, core.num_waiting) == (1, 1)
    assert [set(output.tokens) for output in run(core)] == [{"a"}, {"b"}]


def test_request_waits_until_its_whole_prompt_has_room() -> None:
    records: list[Record] = []
    core = EngineCore(profile(num_blocks=5, max_num_batched_tokens=8), listener=records.append)
    core.add(request("a", "abcdefgh", "12"), 0.0)
    core.add(request("b", "klmnopqrst"), 0.0)
    run(core)

    assert log(records)[2:] == [
        "admitted a 0",
        "scheduled a 0 8",
        "scheduled a 8 9",
        "finished a",
        "admitted b 0",
        "scheduled b 0 8",
        "evicted",
        "scheduled b 8 10",
        "finished b",
    ]


def test_last_admitted_is_preempted_and_starts_over_at_the_head() -> None:
    records: list[Record] = []
    core = EngineCore(profile(num_blocks=5), listener=records.append)

    stats = finished(
        core, request("a", "abcdefgh", "12345"), request("b", "ijklmno", "123"), request("c", "xyz")
    )

    assert log(records)[3:] == [
        "admitted a 0",
        "scheduled a 0 8",
        "admitted b 0",
        "scheduled b 0 7",
        "preempted b",
        "scheduled a 8 9",
        "scheduled a 9 10",
        "scheduled a 10 11",
        "scheduled a 11 12",
        "finished a",
        "admitted b 4",
        "evicted",
        "scheduled b 4 8",
        "admitted c 0",
        "evicted",
        "scheduled c 0 3",
        "finished c",
        "scheduled b 8 9",
        "finished b",
    ]
    assert (stats["b"].preemptions, stats["b"].cached_tokens, stats["b"].output_tokens) == (1, 0, 3)
    assert stats["b"].first_token_s < stats["a"].finish_s
    assert core.num_preemptions == 1


def test_aborted_request_leaves_what_it_computed_in_the_cache() -> None:
    records: list[Record] = []
    core = EngineCore(profile(max_num_batched_tokens=8), listener=records.append)
    core.add(request("a", "abcdefghijklmno"), 0.0)
    core.step(0.0)

    assert core.abort("a")

    assert not core.abort("a")
    assert not core.has_work
    assert core.cache_usage == 0.0
    assert log(records)[-1] == "aborted a"
    assert finished(core, request("b", "abcdefghijklmno"))["b"].cached_tokens == 8


def test_aborting_who_waits_lets_the_next_in() -> None:
    core = EngineCore(profile(num_blocks=4))
    for name in ("a", "b", "c"):
        core.add(request(name, f"{name}bcdefghi", "12"), 0.0)
    core.step(0.0)

    core.abort("b")

    assert [stats.request_id for output in run(core) for stats in output.finished] == ["a", "c"]


def test_reset_forgets_everything_but_only_when_idle() -> None:
    records: list[Record] = []
    core = EngineCore(profile(), listener=records.append)
    core.add(request("a", "abcdefghij", boundaries=[("A", 8)]), 0.0)

    assert core.reset_prefix_cache()  # a request that waits holds nothing
    core.add(request("b", "klm", "12"), 0.0)
    core.step(0.0)
    assert not core.reset_prefix_cache()
    run(core)
    assert core.reset_prefix_cache()

    assert core.resident() == ()
    assert log(records)[-1] == "cachereset"
    assert finished(core, request("c", "abcdefghij"))["c"].cached_tokens == 0


def test_what_could_never_run_is_refused() -> None:
    core = EngineCore(profile(num_blocks=4, max_model_len=20))

    with pytest.raises(RequestTooLarge, match="21 tokens exceed the context length of 20"):
        core.add(request("a", "x" * 20), 0.0)
    with pytest.raises(RequestTooLarge, match="14 tokens exceed the cache of 12 tokens"):
        core.add(request("a", "x" * 13), 0.0)
    core.add(request("a", "x" * 12), 0.0)
    with pytest.raises(ValueError, match="'a' is already in the engine"):
        core.add(request("a", "x"), 0.0)


@pytest.mark.parametrize(("prompt", "output"), [(b"", b"abcd"), (b"abcd", b""), (b"abc", b"abcd")])
def test_requests_are_whole_tokens(prompt: bytes, output: bytes) -> None:
    with pytest.raises(ValueError, match="positive multiple of 4 bytes"):
        EngineRequest("a", prompt, output, b"root")


def test_dispatch_order_is_a_value() -> None:
    def most_cached_first(
        waiting: Sequence[Progress],
        running: Sequence[Progress],
        now: float,
        cached_tokens: Callable[[Progress], int],
    ) -> int:
        return max(range(len(waiting)), key=lambda index: cached_tokens(waiting[index]))

    core = EngineCore(profile(max_num_seqs=1), dispatch=most_cached_first)
    run(core, request("warm", "abcdefghij"))

    outputs = run(core, request("cold", "klmnop"), request("hit", "abcdefghij"))

    assert [stats.request_id for output in outputs for stats in output.finished] == ["hit", "cold"]


def test_eviction_order_is_a_value() -> None:
    class MostRecentlyUsed(LeastRecentlyUsed):
        def pop(self, now: float) -> Block:
            return self._blocks.popitem(last=True)[1]

    def cached(core: EngineCore) -> list[int]:
        for name, prompt in (("a", "abcdefghi"), ("b", "klmnopqrs"), ("c", "uvwxyz123")):
            run(core, request(name, prompt))
        return [
            finished(core, request(prompt, prompt))[prompt].cached_tokens
            for prompt in ("abcdefghi", "klmnopqrs")
        ]

    # Of five usable blocks each prompt fills two and needs a third.
    assert cached(EngineCore(profile(num_blocks=6))) == [0, 0]
    assert cached(EngineCore(profile(num_blocks=6), eviction=MostRecentlyUsed())) == [8, 0]


def test_costs_are_those_of_the_profile() -> None:
    costs = dataclasses.replace(
        profile(),
        prefill_s_per_token_context=0.001,
        decode_s_per_context_token=0.0001,
    )
    prefill, decode = run(EngineCore(costs), request("a", "abcd", "12"))

    assert prefill.duration_s == pytest.approx(1.0 + 0.4 + 0.001 * (1 + 2 + 3 + 4))
    assert decode.duration_s == pytest.approx(1.0 + 0.01 + 0.0001 * 5)


def test_totals_count_a_request_once() -> None:
    core = EngineCore(profile())
    run(core, request("a", "abcdefghij", "12"), request("b", "abcdefghij", "1"))

    totals = core.totals
    assert (totals.prefix_cache_queries, totals.prefix_cache_hits) == (20, 8)
    assert (totals.prompt_tokens, totals.generation_tokens) == (20, 3)
