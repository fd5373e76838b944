"""Which context goes first: by estimates, death and budget; without them exactly the least recently used."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents.engine import ByNextUse, EngineCore, EngineRequest, LeastRecentlyUsed, Record
from llmd_agents.hints import DirectiveOutcome, Estimate, Release, Result, Retain
from tests.engine.stories import digest, log, profile, request, run
from tests.engine.test_invariants import actions, named


def retain(
    core: EngineCore, letter: str, after: float, now: float, *, weight: float = 1.0, sigma: float = 0.3
) -> DirectiveOutcome:
    directive = Retain(digest=digest(letter), after=after, sigma=sigma, expires=1000.0, weight=weight)
    outcome = core.direct("a", directive, now)
    assert isinstance(outcome, DirectiveOutcome)
    return outcome


def release(core: EngineCore, letter: str, keep: str | None = None, now: float = 10.0) -> DirectiveOutcome:
    directive = Release(digest=digest(letter), keep=digest(keep) if keep else None)
    outcome = core.direct("a", directive, now)
    assert isinstance(outcome, DirectiveOutcome)
    return outcome


def answer(result: Result, tokens: int | None, reason: str | None = None) -> DirectiveOutcome:
    return DirectiveOutcome(action_id="a", outcome=result, reason=reason, tokens=tokens)


def held(core: EngineCore) -> str:
    return "".join(sorted(change.digest[:1].decode() for change in core.resident()))


def three() -> EngineCore:
    """Three contexts of two blocks each, used one after the other, in a cache of eight."""
    core = EngineCore(profile(num_blocks=9), retention_budget=1.0)
    for at, (name, prompt) in enumerate((("A", "abcdefgh"), ("B", "ijklmnop"), ("C", "qrstuvwx"))):
        run(core, request(name, prompt, boundaries=[(name, 8)]), now=100.0 * at)
    return core


def push(core: EngineCore, blocks: int, now: float = 300.0) -> None:
    """Takes as many blocks as others have to give up; two were empty."""
    run(core, request("push", "0" * 4 * (blocks + 2)), now=now)


def test_without_directives_the_least_recently_used_goes_first() -> None:
    core = three()
    push(core, 2)
    assert held(core) == "BC"


def test_an_estimate_holds_for_the_beginning_of_a_context_whose_end_is_in_a_lower_tier() -> None:
    core = EngineCore(profile(num_blocks=7, host_blocks=8), retention_budget=1.0)
    run(core, request("A", "abcdefgh", boundaries=[("a", 4), ("A", 8)]), now=0.0)
    run(core, request("B", "ijklmnop", boundaries=[("b", 4), ("B", 8)]), now=100.0)
    run(core, request("push", "0" * 12), now=200.0)  # the end of A leaves the device
    assert {"A8 host", "a4 device"} <= {
        f"{c.digest[:1].decode()}{c.tokens} {c.tier}" for c in core.resident()
    }
    assert retain(core, "A", after=5.0, now=299.0).outcome == "applied"
    run(core, request("push 2", "1" * 12), now=300.0)
    on_device = {c.digest[:1].decode() for c in core.resident() if c.tier == "device"}
    assert "a" in on_device
    assert "b" not in on_device


def test_what_the_device_holds_too_is_the_first_to_leave_the_host() -> None:
    core = EngineCore(profile(num_blocks=7, host_blocks=9), retention_budget=1.0)
    run(core, request("A", "abcdefgh", boundaries=[("A", 8)]), now=0.0)
    run(core, request("B", "ijklmnop", boundaries=[("B", 8)]), now=10.0)
    run(core, request("push", "0" * 24), now=20.0)  # both are in the host tier
    assert sorted(c.tier for c in core.resident()) == ["host", "host"]
    run(core, request("B again", "ijklmnopq"), now=30.0)  # loaded: now in both
    retain(core, "B", after=5.0, now=40.0)
    run(core, request("push 2", "1" * 16), now=50.0)  # what it pushes out takes the place of B's copy
    # A, which was used least recently, would have gone.
    assert {c.digest[:1].decode() for c in core.resident() if c.tier == "host"} == {"A", "B"}


def test_what_is_needed_soon_stays() -> None:
    core = three()
    assert retain(core, "A", after=5.0, now=299.0) == answer("applied", 8)
    push(core, 2)
    assert held(core) == "AC"


def test_what_is_needed_late_goes_before_what_was_used_earlier() -> None:
    core = three()
    retain(core, "C", after=900.0, now=299.0)
    push(core, 2)
    assert held(core) == "AB"


def test_next_use_clears_the_estimate() -> None:
    core = three()
    retain(core, "A", after=5.0, now=299.0)
    run(core, request("again", "abcdefgh", boundaries=[("A", 8)]), now=300.0)
    assert core.kv("e", 300.0).retained == {}
    retain(core, "B", after=5.0, now=301.0)
    assert core.kv("e", 301.0).retained == {"": 8}
    assert core.kv("e", 1301.0).retained == {}


def test_a_late_estimate_ends_with_its_expiry() -> None:
    core = three()
    retain(core, "C", after=900.0, now=299.0)
    push(core, 2, now=1299.0)
    assert held(core) == "BC"


def test_estimate_replaces_estimate() -> None:
    core = three()
    retain(core, "A", after=5.0, now=299.0)
    retain(core, "A", after=900.0, now=299.0)
    retain(core, "B", after=5.0, now=299.0)
    push(core, 2)
    assert held(core) == "BC"


def test_reply_goes_with_the_prompt_before_it() -> None:
    core = EngineCore(profile(num_blocks=9), retention_budget=1.0)
    run(core, request("A", "abcd", "efghi", boundaries=[("A", 4)]), now=0.0)
    run(core, request("B", "ijkl", "mnopq", boundaries=[("B", 4)]), now=100.0)
    retain(core, "A", after=5.0, now=199.0)
    run(core, request("push", "0" * 24), now=200.0)  # four blocks are empty, two go
    assert held(core) == "A"
    (stats,) = run(core, request("next", "abcdefgh+"), now=300.0)[-1].finished
    assert stats.cached_tokens == 8


def test_dead_context_goes_first_and_its_next_use_revives_it() -> None:
    core = three()
    assert release(core, "C") == answer("applied", 8)
    run(core, request("D", "qrstuvwx!", boundaries=[("C", 8)]), now=290.0)
    push(core, 2)
    assert held(core) == "BC"

    core = three()
    release(core, "C")
    push(core, 2)
    assert held(core) == "AB"


def test_release_spares_what_others_extend_and_what_is_kept() -> None:
    core = EngineCore(profile(num_blocks=20))
    run(core, request("1", "ssssaaaabbbb", boundaries=[("S", 4), ("A", 8), ("B", 12)]))
    run(core, request("2", "sssscccc", boundaries=[("S", 4), ("C", 8)]))

    assert release(core, "A") == answer("clipped", 0, "other context extends it")
    assert release(core, "B", keep="A") == answer("applied", 4)
    assert release(core, "B") == answer("clipped", 8, "other context extends it")
    assert release(core, "C") == answer("applied", 8)
    assert release(core, "B", keep="C") == answer("rejected", None, "keep is no prefix of the context")
    assert release(core, "Z") == answer("rejected", None, "unknown digest")


def test_release_spares_what_a_request_uses() -> None:
    core = EngineCore(profile())
    core.add(request("1", "abcdefgh", "12345", boundaries=[("A", 8)]), 0.0)
    core.step(0.0)
    assert release(core, "A") == answer("clipped", 0, "a request uses it")
    run(core)
    assert release(core, "A") == answer("applied", 8)


def test_shared_blocks_of_different_digests_live_until_the_last_of_them() -> None:
    core = EngineCore(profile(num_blocks=8), retention_budget=1.0)
    run(core, request("1", "ddddeeee1111", boundaries=[("X", 12)]), now=0.0)
    run(core, request("2", "ddddeeee2222", boundaries=[("Y", 12)]), now=10.0)
    run(core, request("3", "zzzz", boundaries=[("Z", 4)]), now=20.0)

    assert release(core, "X") == answer("applied", 12)
    run(core, request("push", "0000000"), now=30.0)  # two blocks are empty
    run(core, request("push 2", "99998888"), now=31.0)
    assert held(core) == "YZ"
    assert release(core, "Y") == answer("applied", 12)
    run(core, request("push 3", "8888888888"), now=40.0)
    assert held(core) == "Z"


def test_short_children_of_a_fork_die_alone() -> None:
    core = EngineCore(profile(num_blocks=30), retention_budget=1.0)
    for index, letter in enumerate("XY"):
        run(core, request(letter, f"ssss{letter}", "rrrrr", boundaries=[("S", 4), (letter, 5)]), now=index)
    assert release(core, "X", keep="S") == answer("applied", 1)
    dead = core._cache.contexts.dead
    assert len(dead) == 1
    assert held(core) == "SXY"


def test_budget_keeps_the_head_of_what_it_does_not_cover() -> None:
    core = EngineCore(profile(num_blocks=17), retention_budget=0.5)
    letters = "ABCDEFGHIJ"
    text = "".join(letter * 4 for letter in letters)
    boundaries = [(letter, 4 * (index + 1)) for index, letter in enumerate(letters)]
    run(core, request("long", text, boundaries=boundaries), now=0.0)
    run(core, request("other", "zzzzyyyyxxxx", boundaries=[("Z", 12)]), now=50.0)
    more = "more than the budget for estimates"
    assert retain(core, "J", after=1.0, now=99.0) == answer("clipped", 32, more)
    run(core, request("push", "0" * 24), now=100.0)  # three blocks are empty, three go
    # Eight blocks are within the budget; of the others the estimate leaves the least recently used to go.
    assert held(core) == "ABCDEFGH"


def test_lru_engines_say_that_they_heed_no_estimates() -> None:
    core = EngineCore(profile(), eviction="lru")
    run(core, request("A", "abcdefgh", boundaries=[("A", 8)]))
    reason = "this engine evicts what was least recently used"
    assert retain(core, "A", 1.0, 1.0) == answer("unsupported", None, reason)
    assert release(core, "A") == answer("unsupported", None, reason)
    assert core.kv("e", 0.0).directives == ("warm",)


@pytest.mark.parametrize("name", ["LRU", "", "random"])
def test_orders_that_are_not_known(name: str) -> None:
    if name:
        with pytest.raises(ValueError, match="eviction must be next-use or lru"):
            EngineCore(profile(), eviction=name)
    with pytest.raises(ValueError, match="retention_budget must be from 0 to 1"):
        EngineCore(profile(), retention_budget=1.5)


def test_what_cannot_be_known_is_rejected() -> None:
    core = EngineCore(profile())
    run(core, request("A", "abcdefgh", boundaries=[("A", 8)]))
    other = Retain(digest=digest("A"), scope="other", after=1.0, expires=10.0)
    assert core.direct("a", other, 1.0) == answer("rejected", None, "unknown digest")
    core.reset_prefix_cache()
    assert retain(core, "A", 1.0, 1.0) == answer("rejected", None, "unknown digest")


def play(core: EngineCore, moves: Sequence[tuple[str, str, int]], *, worthless: bool) -> None:
    """Plays arrivals, steps, aborts and resets; with worthless estimates for all that is resident."""
    now, count = 0.0, 0
    for move, prompt, number in moves:
        if move == "add":
            core.add(named(str(count), prompt, number), now)
            count += 1
        elif move == "abort":
            core.abort(str(number))
        elif move == "reset":
            core.reset_prefix_cache()
        else:
            for _ in range(number):
                now += core.step(now).duration_s
        if worthless:
            for change in core.resident():
                directive = Retain(digest=change.digest, after=number, expires=50.0, weight=0.0)
                core.direct("w", directive, now)
    while core.has_work:
        now += core.step(now).duration_s


@settings(max_examples=200, deadline=None)
@given(moves=actions, num_blocks=st.integers(9, 14), worthless=st.booleans())
def test_with_nothing_to_go_by_it_is_exactly_least_recently_used(
    moves: list[tuple[str, str, int]], num_blocks: int, worthless: bool
) -> None:
    heard: list[list[Record]] = []
    for order in (LeastRecentlyUsed(), ByNextUse()):
        records: list[Record] = []
        core = EngineCore(
            profile(block_size=2, num_blocks=num_blocks, max_num_seqs=4),
            eviction=order,
            listener=records.append,
        )
        play(core, moves, worthless=worthless)
        heard.append(records)
    assert heard[0] == heard[1]


@settings(max_examples=200, deadline=None)
@given(
    moves=actions,
    directives=st.lists(st.tuples(st.sampled_from(["retain", "release"]), st.integers(0, 30)), max_size=30),
    num_blocks=st.integers(9, 14),
)
def test_estimates_and_death_change_no_outcome(
    moves: list[tuple[str, str, int]], directives: list[tuple[str, int]], num_blocks: int
) -> None:
    """Every request gets its tokens whatever is directed, and the order loses no block."""
    core = EngineCore(profile(block_size=2, num_blocks=num_blocks, max_num_seqs=4))
    waiting = list(directives)
    now, count, ended, aborted = 0.0, 0, 0, 0

    def direct() -> None:
        known = core.resident()
        if waiting and known:
            what, number = waiting.pop()
            name = known[number % len(known)].digest
            if what == "retain":
                core.direct("r", Retain(digest=name, after=number, expires=20.0), now)
            else:
                core.direct("r", Release(digest=name), now)

    for move, prompt, number in moves:
        if move == "add":
            core.add(named(str(count), prompt, number), now)
            count += 1
        elif move == "abort":
            aborted += core.abort(str(number))
        elif move == "reset":
            core.reset_prefix_cache()
        else:
            for _ in range(number):
                output = core.step(now)
                now += output.duration_s
                ended += len(output.finished)
                direct()
        direct()
    while core.has_work:
        output = core.step(now)
        now += output.duration_s
        ended += len(output.finished)
        direct()
    assert ended + aborted == count
    pool = core._cache.pool
    assert pool.free == pool.usable


def test_ranking_is_reused_and_newcomers_come_after_it() -> None:
    core = three()
    retain(core, "A", after=900.0, now=299.0)
    records: list[Record] = []
    core._listener = records.append
    core._cache._listener = records.append
    push(core, 6)
    assert [line for line in log(records) if line == "evicted"] == ["evicted"] * 6


def test_estimates_of_short_prompts_count_for_the_blocks_before_them() -> None:
    core = three()
    run(core, EngineRequest("s", request("s", "abcdefgh!").prompt, b"done", b"root",
                            ((digest("A"), 8), (digest("S"), 9))), now=250.0)  # fmt: skip
    retain(core, "S", after=900.0, now=299.0)
    retain(core, "A", after=5.0, now=299.0)
    push(core, 2)
    assert held(core) == "ACS"


def test_estimate_is_kept_by_name() -> None:
    core = three()
    retain(core, "A", after=5.0, now=299.0)
    (name,) = core._cache.contexts.named(digest("A"), None)
    assert name.estimate == Estimate(299.0, 5.0, 0.3, 1299.0, 1.0)
