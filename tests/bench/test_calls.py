"""What is counted of a program's calls."""

from llmd_agents.bench.calls import CallRecord, join_stall_s, recomputed_tokens
from llmd_agents.engine import RequestStats, cache_root
from llmd_agents.hints import ForkPosition

BLOCK = 4


def call(
    prompt: bytes,
    *,
    scheduled: float,
    finished: float,
    cached: int = 0,
    output: bytes = b"",
    fork: tuple[str, int] | None = None,
    model: str = "m",
) -> CallRecord:
    stats = RequestStats(
        request_id="r",
        arrival_s=scheduled,
        first_scheduled_s=scheduled,
        first_token_s=finished - 1,
        finish_s=finished,
        prompt_tokens=len(prompt) // 4,
        cached_tokens=cached,
        output_tokens=len(output) // 4,
        preemptions=0,
    )
    position = ForkPosition(id=fork[0], index=fork[1], width=9) if fork else None
    return CallRecord(None, position, "e", scheduled, finished, stats, cache_root(model), prompt, output)


def test_a_join_waits_from_the_first_end_to_the_last() -> None:
    calls = [
        call(b"aaaa", scheduled=0, finished=5),
        call(b"aaaa", scheduled=0, finished=3, fork=("f1", 0)),
        call(b"aaaa", scheduled=3, finished=7, fork=("f1", 0)),
        call(b"aaaa", scheduled=0, finished=4, fork=("f1", 1)),
        call(b"aaaa", scheduled=0, finished=9, fork=("f2", 0)),
        call(b"aaaa", scheduled=0, finished=10.5, fork=("f2", 1)),
    ]
    assert join_stall_s(calls) == 3 + 1.5
    assert join_stall_s(calls[:1]) == 0.0


def test_what_was_held_before_and_was_not_cached_is_computed_again() -> None:
    shared = bytes(range(64))  # 16 tokens, 4 blocks
    calls = [
        call(shared, scheduled=0, finished=2),
        call(shared + b"x" * 32, scheduled=3, finished=5, cached=8),
        call(shared + b"x" * 32, scheduled=6, finished=9, cached=20),
    ]
    # The second: 16 held, 8 cached. The third: 23 of 24 tokens may be cached, 20 in whole blocks.
    assert recomputed_tokens(calls, BLOCK) == 8
    assert recomputed_tokens(calls[:1], BLOCK) == 0


def test_what_is_being_computed_is_not_held_yet() -> None:
    shared = bytes(range(64))
    together = [call(shared, scheduled=0, finished=4), call(shared, scheduled=2, finished=5)]
    assert recomputed_tokens(together, BLOCK) == 0
    later = [*together, call(shared, scheduled=3.5, finished=6)]
    assert recomputed_tokens(later, BLOCK) == 12  # the last token is always computed


def test_replies_count_and_other_models_do_not() -> None:
    said = b"word" * 9
    first = call(b"p" * 16, scheduled=0, finished=2, output=said)
    again = call(b"p" * 16 + said, scheduled=3, finished=4)
    assert recomputed_tokens([first, again], BLOCK) == 12
    elsewhere = call(b"p" * 16 + said, scheduled=3, finished=4, model="other")
    assert recomputed_tokens([first, elsewhere], BLOCK) == 0
