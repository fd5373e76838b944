"""What holds of contexts, tiers and transfers after any sequence of requests and directives."""

import dataclasses
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents.cache_index import Run
from llmd_agents.engine import CachedFirst, EngineCore, EngineRequest, PeerRead, first_come_first_served
from llmd_agents.hints import Demote, Directive, Prefetch, Release, Retain, Warm
from tests.engine.stories import profile
from tests.engine.test_invariants import BLOCK, named, prompts

kinds = ("retain", "release", "keep", "demote", "host", "storage", "peer", "warm")
moves = st.lists(
    st.one_of(
        st.tuples(st.just("add"), prompts, st.integers(1, 4)),
        st.tuples(st.just("step"), st.just(""), st.integers(1, 4)),
        st.tuples(st.just("abort"), st.just(""), st.integers(0, 9)),
        st.tuples(st.just("reset"), st.just(""), st.just(0)),
        st.tuples(st.sampled_from(kinds), prompts, st.integers(0, 20)),
    ),
    max_size=50,
)


def directive(kind: str, digest: bytes, keep: bytes, number: int) -> Directive:
    match kind:
        case "retain":
            return Retain(digest=digest, after=number, expires=10.0 * number)
        case "release":
            return Release(digest=digest)
        case "keep":
            return Release(digest=digest, keep=keep)
        case "demote":
            return Demote(digest=digest)
        case "peer":
            return Prefetch(digest=digest, peer="b")
        case "warm":
            return Warm(digest=digest)
        case _:
            return Prefetch(digest=digest, tier=kind)


def check(core: EngineCore) -> None:
    check_blocks(core)
    check_contexts(core)


def check_blocks(core: EngineCore) -> None:
    pool, transfers = core._cache.pool, core._transfers._under_way
    everyone = [*core._requests.values(), *core._internal.values()]
    held = Counter(block.id for each in everyone for block in each.blocks)
    held.update(block.id for each in transfers for block in (*each.blocks, *each.held))
    assert {block.id: block.users for block in pool.blocks if block.users} == dict(held)
    assert pool.free + len(held) == pool.usable
    wanted = Counter(
        block_hash for each in core._scheduler.waiting for block_hash in each.hashes[: each.protected]
    )
    assert pool._wanted == dict(wanted)
    assert set(core._transfers._arriving) == {
        each.path[index] for each in transfers for index in each.indices
    }


def check_contexts(core: EngineCore) -> None:
    """Compares what the contexts count with what is really where."""
    cache, contexts = core._cache, core._cache.contexts
    runs: dict[Run, None] = dict.fromkeys(contexts._runs.values())
    told = {(change.digest, change.tier) for change in core.resident()}
    real: set[tuple[bytes, str]] = set()
    for run in runs:
        levels = [cache._level(block_hash) for block_hash in run.blocks]
        assert levels == [contexts._level[block_hash] for block_hash in run.blocks]
        assert run.blocks
        assert all(contexts._runs[block_hash] is run for block_hash in run.blocks)
        assert run.missing == [sum(level > each for level in levels) for each in range(contexts.gone)]
        assert run.present == sum(level < contexts.gone for level in levels)
        assert run.present or run.children
        assert all(child.parent is run for child in run.children)
        if run.parent is not None:
            assert run in run.parent.children
            assert run.parent.end == run.start
        above = run.parent.resident if run.parent is not None else [True] * contexts.gone
        assert run.resident == [not m and up for m, up in zip(run.missing, above, strict=True)]
        assert (run in contexts.dead) is run.dead
        for name in run.names.values():
            assert name.run is run
            assert name.tokens // BLOCK == run.end
            extending = [n for r in runs for n in r.names.values() if n.parent is name]
            assert name.living == sum(not n.dead for n in extending)
            for tier, resident in zip(cache.residency.tiers, run.resident, strict=True):
                if resident:
                    real.add((name.digest, tier.value))
            assert (name in contexts.estimated) is (name.estimate is not None)
    assert told == real
    in_use = [name for each in core._requests.values() for name in each.names]
    in_use += [name for each in core._internal.values() for name in each.names]
    assert Counter(in_use) == {n: n.users for r in runs for n in r.names.values() if n.users}
    for lower in cache.tiers:
        assert len(lower) == len(lower._order) <= lower.num_blocks
    known = set(contexts._level)
    assert {block.hash for block in cache.pool.blocks if block.hash is not None} <= known


@settings(max_examples=400, deadline=None)
@given(
    moves=moves,
    num_blocks=st.integers(9, 14),
    host_blocks=st.sampled_from([0, 3, 20]),
    storage_blocks=st.sampled_from([0, 5]),
    max_num_seqs=st.integers(1, 4),
    cached_first=st.booleans(),
    eviction=st.sampled_from(["lru", "next-use"]),
)
def test_invariants(
    moves: list[tuple[str, str, int]],
    num_blocks: int,
    host_blocks: int,
    storage_blocks: int,
    max_num_seqs: int,
    cached_first: bool,
    eviction: str,
) -> None:
    sizes = profile(
        block_size=BLOCK,
        num_blocks=num_blocks,
        host_blocks=host_blocks,
        storage_blocks=storage_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=7,
        peers=True,
    )
    core = EngineCore(
        sizes,
        eviction=eviction,
        dispatch=CachedFirst(5.0) if cached_first else first_come_first_served,
        protect_waiting=cached_first,
    )
    peer = EngineCore(sizes)
    seen: list[EngineRequest] = []
    ended: set[str] = set()
    aborted: set[str] = set()
    now = 0.0

    def step() -> None:
        nonlocal now
        output = core.step(now)
        now += output.duration_s
        ended.update(stats.request_id for stats in output.finished)
        check(core)

    def finish(engine: EngineCore) -> None:
        nonlocal now
        while engine.has_work or engine.next_event() is not None:
            if not engine.has_work:
                event = engine.next_event()
                assert event is not None
                now = max(now, event)
            if engine is core:
                step()
            else:
                now += engine.step(now).duration_s

    for kind, prompt, number in moves:
        if kind == "add":
            seen.append(named(str(len(seen)), prompt, number))
            core.add(seen[-1], now)
        elif kind == "step":
            for _ in range(number):
                step()
        elif kind == "abort":
            if core.abort(str(number)):
                aborted.add(str(number))
        elif kind == "reset":
            core.reset_prefix_cache()
        else:
            asked = seen[number % len(seen)] if seen else named("p", prompt, 1)
            digest = asked.boundaries[len(prompt) % len(asked.boundaries)][0]
            answer = core.direct("d", directive(kind, digest, asked.boundaries[0][0], number), now)
            if isinstance(answer, PeerRead):
                peer.add(dataclasses.replace(asked, id="p"), now)
                finish(peer)
                core.receive(answer, peer.export(answer.digest, answer.scope, now), now)
        check(core)
    finish(core)
    assert ended | aborted == {each.id for each in seen}
    assert core._cache.pool.free == core._cache.pool.usable
    assert not core._internal
    totals = core.totals
    assert sum(totals.cached_by_source.values()) == totals.prefix_cache_hits
