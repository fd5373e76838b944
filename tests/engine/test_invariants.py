"""What holds after any sequence of arrivals, steps, aborts and resets."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents.engine import (
    Admitted,
    EngineCore,
    EngineRequest,
    Evicted,
    Record,
    RequestStats,
    Scheduled,
    StepOutput,
)
from llmd_agents.engine.cache import PrefixCache
from llmd_agents.engine.request import Progress
from tests.engine.stories import digest, profile, request

BLOCK = 2

# Few letters and short prompts, so that prefixes collide and a pool of a few blocks is always short.
prompts = st.text("ab", min_size=1, max_size=11)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), prompts, st.integers(1, 5)),
        st.tuples(st.just("step"), st.just(""), st.integers(1, 4)),
        st.tuples(st.just("abort"), st.just(""), st.integers(0, 9)),
        st.tuples(st.just("reset"), st.just(""), st.just(0)),
    ),
    max_size=40,
)


def named(name: str, prompt: str, output: int) -> EngineRequest:
    """A request whose boundaries' digests are determined by the text that they name, as a chain's are."""
    made = request(name, prompt, "b" * output)
    boundaries = tuple(
        ((prompt[:end].encode() + bytes(16))[:16], end) for end in range(1, len(prompt) + 1, 3)
    )
    return EngineRequest(made.id, made.prompt, made.output, made.root, boundaries)


def cache_of(core: EngineCore) -> PrefixCache:
    return core._cache


def in_engine(core: EngineCore) -> dict[str, Progress]:
    return core._requests


def check_blocks(core: EngineCore) -> None:
    pool = cache_of(core).pool
    held = Counter(block.id for each in in_engine(core).values() for block in each.blocks)
    assert {block.id: block.users for block in pool.blocks if block.users} == dict(held)
    assert pool.free + len(held) == pool.usable
    assert 0 not in held
    for each in in_engine(core).values():
        assert len(each.blocks) * BLOCK >= each.computed
        for index, block in enumerate(each.blocks):
            assert block.hash == (each.hashes[index] if index < each.registered else None)
    hashed = Counter(block.hash for block in pool.blocks if block.hash is not None)
    assert all(pool.is_cached(block_hash) for block_hash in hashed)


class Model:
    """Residency by brute force: what the outputs told, and whether the blocks are really there."""

    def __init__(self) -> None:
        self.resident: dict[bytes, int] = {}

    def note(self, output: StepOutput) -> None:
        for change in output.residency:
            assert (change.digest in self.resident) is not change.resident
            if change.resident:
                self.resident[change.digest] = change.tokens
            else:
                del self.resident[change.digest]

    def check(self, core: EngineCore, seen: Sequence[EngineRequest]) -> None:
        assert {change.digest: change.tokens for change in core.resident()} == self.resident
        pool = cache_of(core).pool
        cached: set[bytes] = set()
        for each in seen:
            probe = Progress.start(each, 0.0)
            cache_of(core)._hash(probe, probe.known // BLOCK)
            hits = len(pool.hits(probe.hashes, len(probe.hashes)))
            cached |= {name for name, tokens in each.boundaries if 0 < tokens // BLOCK <= hits}
        # What is told is there; what is there may not be told if its ancestors left and returned.
        assert set(self.resident) <= cached


@settings(max_examples=300, deadline=None)
@given(
    actions=actions,
    num_blocks=st.integers(9, 14),
    max_num_batched_tokens=st.integers(1, 12),
    max_num_seqs=st.integers(1, 5),
)
def test_invariants(
    actions: list[tuple[str, str, int]], num_blocks: int, max_num_batched_tokens: int, max_num_seqs: int
) -> None:
    sizes = profile(
        block_size=BLOCK,
        num_blocks=num_blocks,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
    )
    records: list[Record] = []
    core = EngineCore(sizes, listener=records.append)
    model = Model()
    seen: list[EngineRequest] = []
    ended: list[RequestStats] = []
    aborted: set[str] = set()

    def step() -> None:
        output = core.step(0.0)
        model.note(output)
        ended.extend(output.finished)
        check_blocks(core)
        model.check(core, seen)

    for action, prompt, number in actions:
        if action == "add":
            seen.append(named(str(len(seen)), prompt, number))
            core.add(seen[-1], 0.0)
        elif action == "abort":
            if core.abort(str(number)):
                aborted.add(str(number))
        elif action == "reset":
            if core.reset_prefix_cache():
                model.resident.clear()
        else:
            for _ in range(number):
                step()
        check_blocks(core)
    while core.has_work:
        step()

    assert {stats.request_id for stats in ended} | aborted == {each.id for each in seen}
    check_chunks(records, sizes.max_num_batched_tokens)
    for stats in ended:
        assert stats.cached_tokens < stats.prompt_tokens
        assert stats.cached_tokens % BLOCK == 0
    assert cache_of(core).pool.free == num_blocks - 1


def check_chunks(records: Sequence[Record], budget: int) -> None:
    """Every request's chunks follow each other without a gap from where it was admitted."""
    at: dict[str, int] = {}
    for record in records:
        if isinstance(record, Admitted):
            at[record.request_id] = record.cached_tokens
        elif isinstance(record, Scheduled):
            assert at[record.request_id] == record.start
            assert record.start < record.end <= record.start + budget
            at[record.request_id] = record.end
        elif isinstance(record, Evicted):
            assert len(record.hash) == len(digest("x"))


@given(st.lists(st.tuples(prompts, st.integers(1, 5)), min_size=1, max_size=8))
def test_same_requests_give_the_same_outputs(asked: list[tuple[str, int]]) -> None:
    def outcome() -> tuple[list[StepOutput], list[Record]]:
        records: list[Record] = []
        core = EngineCore(profile(block_size=BLOCK, num_blocks=9, max_num_seqs=3), listener=records.append)
        for index, (prompt, output) in enumerate(asked):
            core.add(named(str(index), prompt, output), float(index))
        outputs = []
        while core.has_work:
            outputs.append(core.step(10.0))
        return outputs, records

    assert outcome() == outcome()
