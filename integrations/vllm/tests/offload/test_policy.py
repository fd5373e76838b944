"""What the host tier gives up, with vLLM's own manager around the policy."""

import gc
import math
from collections.abc import Mapping
from typing import Any

import pytest

from llmd_agents.hints import Estimate, eviction_order
from llmd_agents_vllm.carried import AHEAD
from llmd_agents_vllm.offload import ledger, settings
from llmd_agents_vllm.offload.policy import AgentOffloadPolicy, policy_of_process

from .stories import END, LATE, SOON, Clock, Part, Tier, block_hash, carried, hashes_of, keys_of


def soon(clock: Clock, weight: float = 1.0) -> Estimate:
    return Estimate(clock.now, 15.0, 0.3, clock.now + 1000.0, weight)


def test_without_hints_the_least_recently_used_goes_first(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab")
    tier.run("cd")
    tier.run("ef")
    assert tier.run("xyz") == [*keys_of("ab")[::-1], keys_of("cd")[1]]


def test_what_is_needed_soon_outlives_what_is_as_old(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab", carried("ab", program="p", forecast=SOON))
    tier.run("cd")
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (2, 0)


def test_what_is_needed_late_goes_before_what_is_unknown_and_older(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab")
    tier.run("cd", carried("cd", forecast=LATE))
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (2, 0)


def test_a_conversation_that_goes_on_is_needed_as_a_whole(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("ab", carried("ab", step="1", forecast=SOON))
    tier.run("abcd", carried("abcd", step="2", parents=["1"], forecast=SOON))
    tier.run("xy")
    tier.push(4)
    assert (tier.holds("abcd"), tier.holds("xy")) == (4, 0)


def test_a_program_that_has_ended_goes_first(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab")
    tier.run("cd", carried("cd", forecast=END))
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (2, 0)


def test_the_tail_of_a_context_goes_before_its_head(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("abcd", carried("abcd", forecast=END))
    tier.push(4)
    assert tier.holds("abcd") == 2


@pytest.mark.parametrize("name", ["r", AHEAD])
def test_what_was_brought_ahead_of_its_use_is_still_its_programs_alone(clock: Clock, name: str) -> None:
    tier = Tier(5, clock)
    tier.run("ab", carried("ab", forecast=SOON))
    tier.run("cde", carried("cde", program="q", forecast=LATE))
    tier.load("ab", 0, name=name)
    tier.run("ab", carried("ab", forecast=END))
    tier.push(2)
    # Somebody else's use, of whom nothing is known, would keep it.
    assert (tier.holds("ab"), tier.holds("cde")) == ((2, 1) if name == "r" else (0, 3))


def test_what_living_programs_share_with_an_ended_one_stays(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("SSab", carried("SSab", program="p", forecast=SOON))
    tier.run("SScd", carried("SScd", program="q", forecast=END))
    tier.push(4)
    assert (tier.holds("SSab"), tier.holds("SScd")) == (4, 2)


def test_what_somebody_without_hints_used_is_dead_by_nobodys_word(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("ab")
    tier.run("SS")
    tier.run("SScd", carried("SScd", forecast=END))
    tier.push(4)
    assert (tier.holds("SScd"), tier.holds("ab")) == (2, 2)
    tier.push(2)
    assert (tier.holds("SS"), tier.holds("ab")) == (2, 0)


def test_an_ended_branch_leaves_what_its_program_shares(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("SS", carried("SS", branch="main", forecast={"next": "fork", "fan_out": 2}))
    tier.run("SSab", carried("SSab", branch="b1", forecast=END))
    tier.run("SScd", carried("SScd", branch="b2", forecast=SOON))
    tier.push(4)
    assert (tier.holds("SSab"), tier.holds("SScd")) == (2, 4)


def test_a_program_ends_with_all_its_branches(clock: Clock) -> None:
    tier = Tier(10, clock)
    tier.run("xy")
    tier.run("SSab", carried("SSab", branch="b1", forecast=SOON))
    tier.run("SScd", carried("SScd", branch="main", forecast=END))
    tier.push(8)
    assert (tier.holds("SSab"), tier.holds("xy")) == (0, 2)


@pytest.mark.parametrize(
    ("type_", "lifetime", "left"),
    [
        ("system_prompt", None, 2),
        ("document", None, 0),
        ("conversation_turn", None, 0),
        ("conversation_turn", "persistent", 2),
    ],
)
def test_a_lifetime_may_outlast_the_program(
    clock: Clock, type_: str, lifetime: str | None, left: int
) -> None:
    tier = Tier(8, clock)
    tier.run("ab")
    tier.run("SScd", carried(Part("SS", type_, lifetime), "cd", forecast=END))
    tier.push(6)
    # What is not dead is younger than `ab`.
    assert (tier.holds("SScd"), tier.holds("ab")) == (left, 2 - left)


def test_a_document_of_the_program_outlives_a_branch(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("ab")
    tier.run("DDcd", carried(Part("DD", "document"), "cd", branch="b1", forecast=END))
    tier.push(4)
    assert (tier.holds("DDcd"), tier.holds("ab")) == (2, 2)


def test_what_lives_for_a_step_is_dead_after_it(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("ab")
    tier.run("cdTT", carried("cd", Part("TT", "scratch"), forecast=SOON))
    tier.push(4)
    assert (tier.holds("cdTT"), tier.holds("ab")) == (2, 2)
    tier.push(4)
    assert (tier.holds("cdTT"), tier.holds("ab")) == (2, 0), "the estimate holds for what is left"


def test_what_lives_for_some_seconds_is_dead_after_them(clock: Clock) -> None:
    tier = Tier(12, clock)
    tier.run("ab", carried("ab", program="q", forecast=SOON))
    tier.run("cdTT", carried("cd", Part("TT", "scratch", 25.0), forecast=SOON))
    tier.push(6)
    tier.push(2)
    assert (tier.holds("cdTT"), tier.holds("ab")) == (4, 2)
    tier.push(2)
    assert (tier.holds("cdTT"), tier.holds("ab")) == (2, 2)


def test_scratch_amid_a_prompt_lives_as_long_as_what_needs_it(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("xy")
    tier.run("aTTb", carried("a", Part("TT", "scratch"), "b", forecast=SOON))
    tier.push(2)
    assert (tier.holds("aTTb"), tier.holds("xy")) == (4, 0)


def test_a_context_that_was_rewritten_is_dead(clock: Clock) -> None:
    tier = Tier(10, clock)
    tier.run("xy")
    tier.run("SSabcd", carried(Part("SS", "system_prompt"), "abcd", step="1", forecast=SOON))
    tier.run("SSz", carried(Part("SS", "system_prompt"), "z", step="2", parents=["1"], forecast=SOON))
    tier.push(5)
    assert (tier.holds("SSabcd"), tier.holds("SSz"), tier.holds("xy")) == (2, 3, 2)


def test_another_request_of_the_branch_that_follows_nothing_rewrites_nothing(clock: Clock) -> None:
    tier = Tier(10, clock)
    tier.run("xy")
    tier.run("SSabcd", carried("SSabcd", step="1", forecast=SOON))
    tier.run("SSz", carried("SSz", step="2", forecast=SOON))
    tier.push(3)
    assert (tier.holds("SSabcd"), tier.holds("xy")) == (6, 0)


def test_who_uses_the_dead_revives_them(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab")
    tier.run("cd", carried("cd", program="p", forecast=END))
    tier.run("cd", carried("cd", program="p", forecast=SOON))
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (0, 2)


def test_a_load_of_the_end_of_a_context_uses_its_beginning_too(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("abcd")
    tier.run("xyz", carried("xyz", forecast=SOON))
    tier.load("abcd", start=2, params=carried("abcd", program="q", forecast=SOON))
    tier.push(1)
    tier.push(1)
    assert tier.holds("abcd") == 4


def test_estimates_keep_no_more_than_their_budget(clock: Clock) -> None:
    with settings.in_force(settings.Settings(retention_budget=0.25)):
        tier = Tier(8, clock)
    tier.run("ab", carried("ab", program="p", forecast={**SOON, "after": 22.0}))
    tier.run("cd", carried("cd", program="q", forecast=SOON))
    tier.run("ef")
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd"), tier.holds("ef")) == (2, 0, 2)


def test_a_tenant_keeps_no_more_than_its_own_budget(clock: Clock) -> None:
    with settings.in_force(settings.Settings(retention_budget=1.0, retention_budget_per_tenant=0.25)):
        tier = Tier(8, clock)
    tier.run("ab", carried("ab", program="p", scope="one", forecast={**SOON, "after": 22.0}))
    tier.run("cd", carried("cd", program="q", scope="one", forecast=SOON))
    tier.run("ef", carried("ef", program="r", scope="two", forecast={**SOON, "after": 27.0}))
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd"), tier.holds("ef")) == (2, 0, 2)


def test_a_program_of_another_tenant_with_the_same_id_is_another(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab", carried("ab", program="p", scope="one"))
    tier.run("cd", carried("cd", program="p", scope="two", forecast=END))
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (2, 0)


def test_a_tier_full_of_what_is_needed_soon_gives_up_as_much_as_is_asked_for(clock: Clock) -> None:
    tier = Tier(6, clock)
    for index, path in enumerate(("ab", "cd", "ef")):
        tier.run(path, carried(path, program=f"p{index}", forecast=SOON))
    assert len(tier.run("uvwxyz")) == 6


def test_what_vllm_protects_or_moves_is_never_given_up(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab", carried("ab", forecast=END))
    tier.run("cd")
    tier.run("ef")
    context = tier.begin("ab")
    tier.manager.prepare_load(keys_of("ab"), context)
    before = {key: tier.policy.get(key) for key in keys_of("ab") + keys_of("cd") + keys_of("ef")}
    assert tier.policy.evict(3, set(keys_of("cd"))) is None, "four cannot go"
    assert all(tier.policy.get(key) is chunk for key, chunk in before.items())
    evicted = tier.policy.evict(2, set(keys_of("cd")))
    assert evicted is not None
    assert [key for key, _ in evicted] == keys_of("ef")[::-1]


def test_the_dead_are_protected_as_well(clock: Clock) -> None:
    tier = Tier(4, clock)
    tier.run("ab", carried("ab", program="p", forecast=END))
    tier.run("cd", carried("cd", program="q", forecast=LATE))
    evicted = tier.policy.evict(1, set(keys_of("ab") + keys_of("cd")[1:]))
    assert evicted is not None
    assert [key for key, _ in evicted] == keys_of("cd")[:1]


def test_the_dead_that_are_being_moved_go_once_that_is_done(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("cd")
    context = tier.begin("ab", carried("ab", forecast=END))
    assert tier.store("ab", context) == []
    tier.manager.prepare_load(keys_of("ab"), context)
    tier.manager.on_request_finished(context)
    tier.push(2)
    assert tier.run("u") == [keys_of("cd")[1]]
    tier.manager.complete_load(keys_of("ab"), context)
    assert tier.run("v") == [keys_of("ab")[1]]


def test_a_store_that_fails_leaves_no_trace(clock: Clock) -> None:
    tier = Tier(6, clock)
    context = tier.begin("ab", carried("ab", forecast=SOON))
    output = tier.manager.prepare_store(keys_of("ab"), context)
    assert output is not None
    tier.manager.on_request_finished(context)
    tier.manager.complete_store(output.keys_to_store, context, success=False)
    books = tier.policy._ledger
    assert books is not None
    assert (tier.holds("ab"), books.entries) == (0, 0)
    tier.push(6)
    assert tier.holds("ab") == 0


def test_after_a_reset_the_tier_is_as_new(clock: Clock) -> None:
    tier = Tier(4, clock)
    tier.run("abcd", carried("abcd", forecast=SOON))
    tier.manager.reset_cache()
    books = tier.policy._ledger
    assert books is not None
    assert books.entries == 0
    tier.run("ab")
    tier.run("cd")
    assert tier.run("x") == [keys_of("ab")[1]]


# --- hints that are no help


BAD: list[Any] = [
    None,
    7,
    [],
    {},
    {"v": 1},
    {"v": 2, "header": 'program="p", step="s", next=end'},
    {"v": 1, "header": "\x00"},
    {"v": 1, "header": "x" * 100_000},
    {"v": 1, "header": 5, "chain": 5},
    {"v": 1, "chain": [["zz", 1]], "header": "next=end"},
    {"v": 1, "chain": [["00" * 16, -1]]},
    {"v": 1, "chain": [["00" * 16, 2**53]], "header": 'v=1, program="p", step="s"'},
    {"v": 1, "scope": ["a"], "header": 'v=1, program="p", step="s", next=tool;after=-5'},
    {"v": 1, "scope": "x" * 1000, "header": 'v=1, program="p", step="s", next=tool;after=1e400'},
    {"v": 1, "header": 'v=1, program="p", step="s", next=join'},
    {"v": 1, "header": 'v=1, program="p", step="s", segments=(:AAAA:;b=3)'},
]


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:40])
def test_unusable_hints_leave_least_recently_used_order(clock: Clock, value: Any) -> None:
    tier, plain = Tier(6, clock), Tier(6, clock, "lru")
    for path in ("ab", "cd", "ef"):
        for each in (tier, plain):
            each.run(path, {"llmd_agents": value})
    assert tier.run("wxyz") == plain.run("wxyz")


@pytest.mark.parametrize("params", [{"llmd_agents": object()}, {"a": 1}, {}])
def test_parameters_of_others_are_none_of_ours(clock: Clock, params: Mapping[str, Any]) -> None:
    tier = Tier(2, clock)
    tier.run("ab", params)
    assert tier.run("c") == [keys_of("ab")[1]]


@pytest.mark.parametrize("after", [0.0, 1e-9, 1e9])
@pytest.mark.parametrize("sigma", [0.0, 10.0])
def test_extreme_estimates_are_only_estimates(clock: Clock, after: float, sigma: float) -> None:
    tier = Tier(4, clock)
    tier.run("ab", carried("ab", forecast={"next": "tool", "after": after, "sigma": sigma}))
    assert len(tier.run("wxyz")) == 2


def test_books_at_fault_are_given_up_and_the_engine_goes_on(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tier = Tier(6, clock)
    tier.run("ab", carried("ab", forecast=SOON))
    tier.run("cd", carried("cd", program="q", forecast=END))

    def broken(*args: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(ledger, "eviction_order", broken)
    assert tier.run("wxyz") == keys_of("cd")[::-1]
    assert tier.run("uv") == keys_of("ab")[::-1]
    assert "at fault" in caplog.text
    assert tier.run("s") == [keys_of("wxyz")[3]]


# --- directives


def test_an_estimate_from_outside_outranks_what_the_request_said(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab", carried("ab", forecast=LATE))
    tier.run("cd")
    tier.policy.estimated(hashes_of("ab"), soon(clock))
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (2, 0)


@pytest.mark.parametrize("weight", [None, 0.0])
def test_an_estimate_is_taken_back(clock: Clock, weight: float | None) -> None:
    tier = Tier(6, clock)
    tier.run("ab", carried("ab", forecast=SOON))
    tier.run("cd")
    tier.policy.estimated(hashes_of("ab"), soon(clock))
    tier.policy.estimated(hashes_of("ab"), None if weight is None else soon(clock, weight))
    assert tier.run("wxyz") == keys_of("ab")[::-1]


def test_an_estimate_from_outside_holds_until_the_next_use(clock: Clock) -> None:
    tier = Tier(6, clock)
    tier.run("ab")
    tier.policy.estimated(hashes_of("ab"), soon(clock))
    tier.run("cd")
    tier.run("ab")
    tier.run("cd")
    tier.push(4)
    assert (tier.holds("ab"), tier.holds("cd")) == (0, 2)


def test_released_blocks_go_first_unless_living_context_extends_them(clock: Clock) -> None:
    tier = Tier(8, clock)
    tier.run("ab")
    tier.run("SScd")
    tier.policy.released(hashes_of("SScd")[2:])
    tier.policy.released(hashes_of("ab")[:1])
    tier.push(4)
    assert (tier.holds("SScd"), tier.holds("ab")) == (2, 2)
    tier.push(1)
    assert (tier.holds("SScd"), tier.holds("ab")) == (2, 1)


def test_directives_for_what_is_not_there_do_nothing(clock: Clock) -> None:
    tier = Tier(2, clock)
    tier.policy.estimated(hashes_of("zz"), soon(clock))
    tier.policy.released(hashes_of("zz"))
    tier.policy.estimated([], soon(clock))
    tier.run("ab")
    tier.policy.estimated([b"", b"short"], soon(clock))
    assert tier.run("c") == [keys_of("ab")[1]]


def test_watchers_hear_of_each_block_once(clock: Clock) -> None:
    tier = Tier(2, clock)
    tier.run("ab")
    seen: list[tuple[bytes, bool]] = []
    tier.policy.watch(lambda block, present: seen.append((block, present)))
    a, b, c = block_hash("a"), block_hash("ab"), block_hash("c")
    assert seen == [(a, True), (b, True)]
    tier.run("c")
    assert seen[2:] == [(b, False), (c, True)]
    tier.load("a", 0)
    tier.manager.reset_cache()
    assert sorted(seen[4:]) == sorted([(a, False), (c, False)])


def test_a_watcher_that_fails_harms_nobody(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def fails(block: bytes, present: bool) -> None:
        raise ValueError("no")

    tier = Tier(2, clock)
    seen: list[bool] = []
    tier.policy.watch(fails)
    tier.policy.watch(lambda block, present: seen.append(present))
    tier.run("a")
    assert seen == [True]
    assert "watcher" in caplog.text


def test_the_newest_policy_is_found_while_it_is_in_use() -> None:
    older, newer = AgentOffloadPolicy(4), AgentOffloadPolicy(4)
    assert policy_of_process() is newer
    del newer
    gc.collect()
    assert policy_of_process() is None
    del older


# --- size


def test_thousands_of_programs_leave_no_more_than_the_tier_holds(clock: Clock) -> None:
    clock.step = 1e-3
    tier = Tier(64, clock)
    for index in range(3_000):
        forecast = (SOON, LATE, END, None)[index % 4]
        path = chr(0x4E00 + index % 7) + chr(0x5000 + index)
        tier.run(path, carried(path, program=f"p{index}", branch=f"b{index % 3}", forecast=forecast))
        tier.policy.estimated(hashes_of(path), soon(clock))
    books = tier.policy._ledger
    assert books is not None
    assert len(books) == 64
    assert books.entries < 10 * 64 + 3 * ledger.TIPS_MIN


def test_ten_thousand_chunks_are_ranked_rarely(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []

    def counted(held: Any, now: float, budget: Any) -> list[int]:
        ranked.append(len(held))
        return eviction_order(held, now, budget)

    monkeypatch.setattr(ledger, "eviction_order", counted)
    monkeypatch.setattr(ledger, "RANKING_VALID_S", math.inf)
    clock.step = 1e-3
    tier = Tier(10_000, clock)
    for index in range(1_000):
        path = chr(0x4E00 + index) + "0123456789"[:9]
        tier.run(path, carried(path, program=f"p{index}", forecast=SOON if index % 2 else LATE))
    for _ in range(2_000):
        tier.push(1)
    assert sum(tier.holds(chr(0x4E00 + index) + "012345678") for index in range(1, 1_000, 2)) == 5_000
    assert len(ranked) <= 3
    assert max(ranked) <= 12_000
