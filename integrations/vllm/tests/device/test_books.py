"""The books follow vLLM's own cache manager, and order its blocks as hints and directives ask."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents.hints import (
    Forecast,
    Hints,
    Lifetime,
    Next,
    Program,
    Release,
    Retain,
    Segment,
    SegmentType,
    Step,
    Warm,
    residency_scope,
)
from llmd_agents_vllm.device.boundaries import LINKS_PER_BLOCK_MAX
from llmd_agents_vllm.device.directives import AHEAD_S, Ahead, Directives
from llmd_agents_vllm.device.prompts import Prompts
from llmd_agents_vllm.device.use import Use
from tests.device.real_cache import BLOCK, RealCache, digest


def prompt(name: str, length: int) -> list[int]:
    """A prompt that shares nothing with one of another name."""
    return [sum(map(ord, name)) * 1000 + at for at in range(length)]


def retain(name: str, after: float, *, expires: float = 1e6, salt: str | None = None) -> Retain:
    return Retain(digest=digest(name), after=after, expires=expires, sigma=0.3, scope=residency_scope(salt))


def release(name: str, keep: str | None = None) -> Release:
    return Release(digest=digest(name), keep=digest(keep) if keep else None)


def flood(cache: RealCache, blocks: int, *, start: int = 0) -> None:
    for at in range(blocks // 4):
        cache.run(prompt(f"flood {start + at}", 4 * BLOCK))


def test_without_hints_the_order_is_vllms_own() -> None:
    cache = RealCache(16)
    cache.run(prompt("a", 4 * BLOCK), [("a", 4 * BLOCK)])
    flood(cache, 16)
    assert cache.resident() == {}
    assert cache.run(prompt("a", 4 * BLOCK)) == 0


def test_a_retained_context_survives_a_flood() -> None:
    cache = RealCache(16)
    cache.run(prompt("a", 4 * BLOCK), [("a", 4 * BLOCK)])
    answer = cache.books.retain(retain("a", after=0.5), cache.now)
    assert answer == ("applied", None, 16)
    flood(cache, 64)
    assert digest("a") in cache.resident()
    assert cache.run(prompt("a", 4 * BLOCK)) == 3 * BLOCK


def test_a_released_context_goes_first() -> None:
    cache = RealCache(16)
    cache.run(prompt("old", 4 * BLOCK), [("old", 4 * BLOCK)])
    cache.run(prompt("dead", 4 * BLOCK), [("dead", 4 * BLOCK)])
    assert cache.books.release(release("dead")) == ("applied", None, 16)
    flood(cache, 12)
    assert set(cache.resident()) == {digest("old")}


def test_an_estimate_expires() -> None:
    cache = RealCache(16)
    cache.run(prompt("a", 4 * BLOCK), [("a", 4 * BLOCK)])
    cache.books.retain(retain("a", after=1.0, expires=3.0), cache.now)
    cache.now += 10.0
    flood(cache, 32)
    assert cache.resident() == {}


def test_estimates_keep_no_more_than_their_budget() -> None:
    cache = RealCache(32, budget=0.5)
    names = [f"n{at}" for at in range(8)]
    for name in names:
        cache.run(prompt(name, 4 * BLOCK), [(name, 4 * BLOCK)])
        cache.books.retain(retain(name, after=1e-2, expires=1e6), cache.now)
    cache.now += 1e-3
    flood(cache, 32)
    assert 3 <= sum(digest(name) in cache.resident() for name in names) <= 4


def test_each_tenant_has_a_budget_of_its_own() -> None:
    cache = RealCache(32, budget=1.0, scope_budget=0.25)
    for salt in ("x", "y"):
        for at in range(4):
            name = f"{salt}{at}"
            cache.run(prompt(name, 4 * BLOCK), [(name, 4 * BLOCK)], salt=salt)
            cache.books.retain(retain(name, after=1e-2, salt=salt), cache.now)
    flood(cache, 32)
    kept = list(cache.resident())
    assert sum(name.startswith(b"x") for name in kept) <= 2
    assert sum(name.startswith(b"y") for name in kept) <= 2
    assert len(kept) >= 3


def test_another_tenants_context_is_unknown() -> None:
    cache = RealCache(16)
    cache.run(prompt("a", 16), [("a", 16)], salt="x")
    for salt in (None, "y"):
        assert cache.books.retain(retain("a", after=1.0, salt=salt), cache.now)[0] == "rejected"
    assert cache.books.release(release("a"))[0] == "rejected"
    assert cache.books.retain(retain("a", after=1.0, salt="x"), cache.now)[0] == "applied"


def test_with_everything_retained_a_request_that_needs_the_whole_cache_still_runs() -> None:
    cache = RealCache(16)
    for name in ("a", "b", "c", "d"):
        cache.run(prompt(name, 4 * BLOCK), [(name, 4 * BLOCK)])
        cache.books.retain(retain(name, after=0.0), cache.now)
    assert cache.pool.get_num_free_blocks() == 16
    assert cache.run(prompt("all", 16 * BLOCK)) == 0


def test_overlaps_teach_where_a_link_ends() -> None:
    cache = RealCache(64)
    system = prompt("system", 10 * BLOCK)
    # The chain says half of the bytes; the template puts the end elsewhere.
    links = [("system", 5 * BLOCK), ("one", 12 * BLOCK)]
    cache.run(system + prompt("one", 2 * BLOCK), links)
    assert cache.resident()[digest("system")] != 10 * BLOCK
    cache.run(system + prompt("two", 2 * BLOCK), [("system", 5 * BLOCK), ("two", 12 * BLOCK)])
    found = cache.books.contexts.named(digest("system"), None)
    assert 5 * BLOCK <= min(name.tokens for name in found) <= 10 * BLOCK
    cache.run(system, [("system", 10 * BLOCK)])
    cache.run(system + prompt("three", 2 * BLOCK), [("system", 5 * BLOCK), ("three", 12 * BLOCK)])


def test_a_prompt_that_a_step_extends_ends_where_it_ended() -> None:
    cache = RealCache(64)
    first = prompt("turn", 7 * BLOCK)
    cache.run(first, [("head", 8), ("turn", 28)])
    cache.run(first + prompt("reply", 3 * BLOCK), [("head", 8), ("turn", 28), ("reply", 40)])
    assert cache.resident()[digest("turn")] == 7 * BLOCK
    assert cache.resident()[digest("reply")] == 10 * BLOCK
    answer = cache.books.release(release("reply", keep="turn"))
    assert answer == ("applied", None, 3 * BLOCK)


def hints(
    *, next_: Next | None = None, after: float | None = None, branch: str = "root", program: str = "p",
    segments: Sequence[Segment] = (),
) -> Hints:  # fmt: skip
    return Hints(
        program=Program(id=program),
        step=Step(id="s", branch=branch),
        forecast=None if next_ is None else Forecast(next=next_, after=after, sigma=0.3),
        segments=tuple(segments),
    )


def test_a_forecast_in_the_request_retains_its_context() -> None:
    cache = RealCache(16)
    said = hints(next_=Next.TOOL, after=0.5)
    cache.run(prompt("a", 4 * BLOCK), [("a", 4 * BLOCK)], hints=said)
    cache.run(prompt("b", 4 * BLOCK), [("b", 4 * BLOCK)])
    flood(cache, 12)
    assert set(cache.resident()) == {digest("a")}


def test_the_end_of_a_branch_leaves_what_others_brought() -> None:
    cache = RealCache(64)
    shared = prompt("shared", 4 * BLOCK)
    cache.run(shared, [("shared", 16)], hints=hints())
    branch = hints(next_=Next.END, branch="b1")
    cache.run(shared + prompt("b1", 16), [("shared", 16), ("b1", 32)], hints=branch)
    dead = cache.books.contexts.dead
    assert [run.end for run in dead] == [8]
    flood(cache, 60)
    assert digest("shared") in cache.resident()
    assert digest("b1") not in cache.resident()


def test_the_end_of_a_program_leaves_what_was_declared_to_last() -> None:
    cache = RealCache(64)
    system = Segment(type=SegmentType.SYSTEM_PROMPT, digest=digest("system"), size=16)
    question = Segment(type=SegmentType.CONVERSATION_TURN, digest=digest("question"), size=16)
    said = hints(next_=Next.END, segments=[system, question])
    cache.run(prompt("p", 8 * BLOCK), [("system", 16), ("question", 32)], hints=said)
    assert [run.end for run in cache.books.contexts.dead] == [8]


def test_a_tail_that_mattered_for_one_step_is_dead_after_it() -> None:
    cache = RealCache(64)
    scratch = Segment(type=SegmentType.SCRATCH, digest=digest("scratch"), size=16, lifetime=Lifetime.STEP)
    before = Segment(type=SegmentType.CONVERSATION_TURN, digest=digest("turn"), size=16)
    said = hints(next_=Next.TOOL, after=5.0, segments=[before, scratch])
    cache.run(prompt("p", 8 * BLOCK), [("turn", 16), ("scratch", 32)], hints=said)
    contexts = cache.books.contexts
    assert [run.end for run in contexts.dead] == [8]
    assert [name.digest for name in contexts.estimated] == [digest("turn")]


def test_a_reset_forgets_everything() -> None:
    cache = RealCache(16)
    cache.run(prompt("a", 16), [("a", 16)])
    cache.books.retain(retain("a", after=1.0), cache.now)
    cache.books.take_residency()
    assert cache.manager.reset_prefix_cache()
    cache.books.settle(cache.now)
    assert cache.books.cleared
    assert cache.resident() == {}
    assert cache.books.retained(cache.now) == {}
    assert cache.run(prompt("a", 16), [("a", 16)]) == 0
    assert digest("a") in cache.resident()


@pytest.mark.parametrize("said", [Next.TOOL, Next.END])
def test_what_was_given_up_before_its_request_was_seen_to_end_leaves_nothing(said: Next) -> None:
    cache = RealCache(16)
    links = [("shared", 16), ("a", 32)]
    request_id = cache.start(prompt("a", 8 * BLOCK), links, hints=hints(next_=said, after=5.0))
    assert request_id is not None
    cache.free(request_id)
    cache.take(16)
    cache.books.settle(cache.now)
    assert not cache.books.contexts.runs
    assert not cache.books.contexts.dead
    assert not cache.books.contexts.estimated


def test_a_name_that_was_given_up_is_counted_out_once() -> None:
    cache = RealCache(16)
    request_id = cache.start(prompt("a", 8 * BLOCK), [("shared", 16), ("a", 32)], hints=hints(next_=Next.END))
    assert request_id is not None
    cache.free(request_id)
    cache.take(12)  # all that follows what is shared is among them
    cache.books.settle(cache.now)
    (shared,) = cache.books.contexts.named(digest("shared"), None)
    assert shared.living == 0
    assert cache.books.release(release("shared")) == ("applied", None, 16)


def test_blocks_that_are_found_bad_while_a_request_uses_them_are_forgotten() -> None:
    cache = RealCache(16)
    links = [("shared", 16), ("a", 32)]
    request_id = cache.start(prompt("a", 8 * BLOCK), links, hints=hints(next_=Next.TOOL, after=5.0))
    assert request_id is not None
    cache.pool.evict_blocks({block.block_id for block in cache.pool.blocks[1:9]})
    cache.books.settle(cache.now)
    cache.end(request_id)
    assert not cache.books.contexts.runs
    assert not cache.books.contexts.estimated


def test_what_a_request_takes_up_again_is_in_nobodys_way() -> None:
    cache = RealCache(40, at_once=1)
    cache.run(prompt("kept", 8 * BLOCK), [("kept", 32)])
    cache.run(prompt("other", 16 * BLOCK + 1), [("other", 16 * BLOCK)])
    flood(cache, 16)
    cache.now += 30
    cache.books.retain(retain("kept", after=5.0), cache.now)
    cache.books.prepare(24, cache.now + 1)  # "other" is the next to go
    cache.now += 2
    assert cache.run(prompt("other", 16 * BLOCK + 1)) == 16 * BLOCK
    cache.run(prompt("new", 12 * BLOCK))
    assert digest("kept") in cache.resident()


def test_what_is_demoted_makes_room_for_what_comes_next() -> None:
    cache = RealCache(16)
    cache.run(prompt("old", 8 * BLOCK), [("old", 32)])
    cache.run(prompt("new", 8 * BLOCK), [("new", 32)])
    (name,) = cache.books.contexts.named(digest("new"), None)
    assert cache.books.give_up(cache.books.contexts.path(name)) == 0
    cache.run(prompt("next", 8 * BLOCK))
    assert set(cache.resident()) == {digest("old")}


def test_where_all_attention_slides_only_the_window_is_there() -> None:
    cache = RealCache(64, windows=(8,))
    first = prompt("p", 10 * BLOCK)
    cache.run(first, [("p", 40)])
    hashes = cache.books.contexts.path(cache.books.contexts.named(digest("p"), None)[0])
    cache.books.give_up(hashes[:5])
    assert cache.run(first + prompt("q", 8), [("p", 40), ("q", 48)]) == 40
    check_blocks(cache)
    assert cache.resident() == {}


HYBRID = [(None, 8), (8, None), (None, 8, 12)]
"""Full attention beside sliding windows: every group takes blocks from the one pool."""


@pytest.mark.parametrize("windows", HYBRID)
@pytest.mark.parametrize("retained", [False, True])
def test_in_a_hybrid_pool_a_retained_context_survives_a_flood_in_all_groups(
    windows: tuple[int | None, ...], retained: bool
) -> None:
    cache = RealCache(48, windows=windows)
    kept = prompt("kept", 4 * BLOCK)
    cache.run(kept, [("kept", 4 * BLOCK)])
    if retained:
        assert cache.books.retain(retain("kept", after=0.5), cache.now)[0] == "applied"
    flood(cache, 96)
    assert set(cache.resident()) == ({digest("kept")} if retained else set())
    assert cache.run([*kept, 7]) == (4 * BLOCK if retained else 0)


@pytest.mark.parametrize("windows", HYBRID)
def test_in_a_hybrid_pool_a_large_request_spares_what_is_retained(
    windows: tuple[int | None, ...],
) -> None:
    cache = RealCache(24 * len(windows), windows=windows, at_once=1)
    kept = prompt("kept", 4 * BLOCK)
    cache.run(kept, [("kept", 4 * BLOCK)])
    for name in ("one", "two", "three", "four"):
        cache.run(prompt(name, 4 * BLOCK), [(name, 4 * BLOCK)])
    cache.now += 30
    cache.books.retain(retain("kept", after=0.5), cache.now)
    cache.run(prompt("new", 16 * BLOCK))
    assert cache.run([*kept, 7]) == 4 * BLOCK


@pytest.mark.parametrize("windows", HYBRID)
@pytest.mark.parametrize("released", [False, True])
def test_in_a_hybrid_pool_a_released_context_goes_first_in_all_groups(
    windows: tuple[int | None, ...], released: bool
) -> None:
    cache = RealCache(16 * len(windows), windows=windows)
    old, dead = prompt("old", 4 * BLOCK), prompt("dead", 4 * BLOCK)
    cache.run(old, [("old", 4 * BLOCK)])
    cache.run(dead, [("dead", 4 * BLOCK)])
    if released:
        assert cache.books.release(release("dead")) == ("applied", None, 4 * BLOCK)
    flood(cache, 12)
    assert set(cache.resident()) == {digest("old" if released else "dead")}
    assert cache.run([*(old if released else dead), 7]) == 4 * BLOCK
    assert cache.run([*(dead if released else old), 7]) == 0


def test_a_session_that_takes_tokens_back_still_ends() -> None:
    cache = RealCache(16)
    request_id = cache.start(prompt("a", 8 * BLOCK), [("a", 32)])
    assert request_id is not None
    use = cache.books.known(request_id)
    assert use is not None
    assert isinstance(use.hashes, list)
    del use.hashes[6:]
    cache.end(request_id)


def test_of_endless_links_within_one_block_the_newest_count() -> None:
    cache = RealCache(64)
    links = [(f"{link}", 16) for link in range(500)] + [("last", 32)]
    cache.run(prompt("same", 8 * BLOCK), links)
    names = [name.digest for run in cache.books.contexts.runs for name in run.names.values()]
    assert names == [digest(f"{link}") for link in range(500 - LINKS_PER_BLOCK_MAX, 500)] + [digest("last")]


def test_a_context_on_its_way_of_which_nobody_tells_is_forgotten_in_the_end() -> None:
    cache = RealCache(16)
    prompts = Prompts()
    directives = Directives(cache.books, prompts)
    for name in ("a", "b"):
        use = Use(hashes=(), prompt=prompt(name, 32), links=(), scope=None, boundaries=((digest(name), 32),))
        prompts.note(use)

    def warm(name: str, now: float) -> bool:
        return isinstance(directives.carry_out("x", Warm(digest=digest(name)), now), Ahead)

    assert warm("a", 0.0)
    assert not warm("b", 1.0)
    directives.arrived(32)
    assert warm("b", 2.0)
    assert not warm("a", 3.0)
    assert warm("a", 3.0 + AHEAD_S)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("end unseen"), st.integers(0, 5), st.integers(0, 24)),
        st.tuples(st.just("bad block"), st.integers(1, 24), st.just(0)),
        st.tuples(st.just("start"), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("end"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("retain"), st.integers(0, 5), st.integers(0, 40)),
        st.tuples(st.just("release"), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("give up"), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("wait"), st.integers(0, 100), st.just(0)),
        st.tuples(st.just("reset"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(actions, st.sampled_from([(None,), (None, 8)]))
def test_books_and_pool_agree_whatever_happens(
    moves: list[tuple[str, int, int]], windows: tuple[int | None, ...]
) -> None:
    cache = RealCache(24, windows=windows, budget=0.5, at_once=6)
    running: list[str] = []
    for kind, which, length in moves:
        family = prompt(f"family {which % 3}", 40)
        name = f"{which % 3}/{length}"
        match kind:
            case "start":
                ends = [(f"{which % 3}/{at}", at) for at in range(5, length, 5)] + [(name, length)]
                said = (None, hints(next_=Next.TOOL, after=3.0), hints(next_=Next.END))[length % 3]
                request_id = cache.start(family[:length] + ([7] if which > 2 else []), ends, hints=said)
                running += [request_id] if request_id is not None else []
            case "end" if running:
                cache.end(running.pop(which % len(running)))
            case "end unseen" if running:
                cache.free(running.pop(which % len(running)))
                cache.take(min(length, cache.pool.get_num_free_blocks()))
            case "bad block":
                cache.pool.evict_blocks({which})
            case "retain":
                cache.books.retain(retain(name, after=float(length)), cache.now)
            case "release":
                cache.books.release(release(name))
            case "give up":
                for found in cache.books.contexts.named(digest(name), None):
                    cache.books.give_up(cache.books.contexts.path(found))
            case "wait":
                cache.now += which
            case "reset":
                cache.manager.reset_prefix_cache()
        cache.books.settle(cache.now)
        check(cache, running)
    for request_id in running:
        cache.end(request_id)
    assert cache.pool.get_num_free_blocks() == 24


def check(cache: RealCache, running: list[str]) -> None:
    queue = cache.pool.free_block_queue
    free = queue.get_all_free_blocks()
    assert len({block.block_id for block in free}) == len(free) == queue.num_free_blocks
    assert all(block.ref_cnt == 0 for block in free)
    held = sum(block.ref_cnt > 0 for block in cache.pool.blocks if not block.is_null)
    assert held + len(free) == 24
    check_blocks(cache)
    contexts = cache.books.contexts
    names = [name for run in contexts.runs for name in run.names.values()]
    for name in names:
        extending = [other for other in names if other.parent is name]
        assert name.extended == len(extending)
        assert name.living == sum(not other.dead for other in extending)
    assert all(contexts.knows(name) for name in contexts.estimated)
    assert all(run in contexts.runs for run in contexts.dead)
    assert all(run.present or run.children for run in contexts.runs)


def check_blocks(cache: RealCache) -> None:
    contexts = cache.books.contexts
    for run in contexts.runs:
        for block_hash in run.blocks:
            assert contexts.has(block_hash) == cache.device.has(block_hash)
    for name in cache.resident():
        assert any(
            all(cache.device.has(each) for each in contexts.path(found))
            for found in contexts.named(name, None)
        )


@pytest.mark.parametrize("length", [1, 3])
def test_a_prompt_shorter_than_a_block_leaves_nothing(length: int) -> None:
    cache = RealCache(8)
    assert cache.run(prompt("x", length), [("x", length)]) == 0
    assert cache.resident() == {}
