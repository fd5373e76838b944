"""Who is admitted next, and what is kept for those who wait."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents.engine import Admitted, CachedFirst, EngineCore, Finished, Queued, Record
from tests.engine.stories import profile, request, run


def admitted(records: list[Record]) -> list[str]:
    return [record.request_id for record in records if isinstance(record, Admitted)]


def test_least_to_compute_goes_first_ties_by_arrival() -> None:
    records: list[Record] = []
    core = EngineCore(
        profile(num_blocks=30, max_num_seqs=1), dispatch=CachedFirst(100.0), listener=records.append
    )
    run(core, request("warm", "abcdefghijkl"))
    run(
        core,
        request("long", "12345678"),
        request("short", "1"),
        request("hit", "abcdefghijkl"),
        request("hit and more", "abcdefghijklm"),
        request("short too", "2"),
    )

    assert admitted(records)[1:] == ["short", "hit and more", "short too", "hit", "long"]


def test_what_is_computed_meanwhile_counts() -> None:
    records: list[Record] = []
    core = EngineCore(
        profile(num_blocks=30, max_num_seqs=1), dispatch=CachedFirst(100.0), listener=records.append
    )
    run(core, request("a", "abcdefgh"), request("other", "12345678"), request("extends a", "abcdefghijk"))

    assert admitted(records) == ["a", "extends a", "other"]


def test_who_has_waited_too_long_goes_first() -> None:
    records: list[Record] = []
    core = EngineCore(
        profile(num_blocks=30, max_num_seqs=1), dispatch=CachedFirst(3.0), listener=records.append
    )
    run(core, request("long", "12345678"), *(request(name, name) for name in "abcd"))

    # Each short one takes 1.1 s.
    assert admitted(records) == ["a", "b", "c", "long", "d"]


def test_what_would_hold_up_branches_waits_until_they_have_ended() -> None:
    records: list[Record] = []
    order = CachedFirst(aging_s=100.0, short=8)
    core = EngineCore(profile(num_blocks=60), dispatch=order, listener=records.append)
    core.add(replace(request("branch", "a", "......"), of_branch=True), 0.0)
    now = core.step(0.0).duration_s
    core.add(request("long", "123456789"), now)
    core.add(request("short", "b"), now)
    core.add(replace(request("other branch", "abcdefghi", "..."), of_branch=True), now)
    while core.has_work:
        now += core.step(now).duration_s
    assert admitted(records) == ["branch", "short", "other branch", "long"]
    ended = [record.request_id for record in records if isinstance(record, Finished)]
    assert ended.index("other branch") < ended.index("long")


def test_branches_hold_nobody_up_beyond_the_bound() -> None:
    records: list[Record] = []
    core = EngineCore(
        profile(num_blocks=60), dispatch=CachedFirst(aging_s=3.0, short=8), listener=records.append
    )
    core.add(replace(request("branch", "a", "." * 20), of_branch=True), 0.0)
    now = core.step(0.0).duration_s
    core.add(request("long", "123456789"), now)
    arrived = now
    while core.num_waiting:
        now += core.step(now).duration_s
    assert admitted(records) == ["branch", "long"]
    assert 3.0 < now - arrived < 6.0


@pytest.mark.parametrize("aging_s", [-1.0, float("nan")])
def test_bounds_are_durations(aging_s: float) -> None:
    with pytest.raises(ValueError, match="aging_s must be 0 or more"):
        CachedFirst(aging_s)


@settings(max_examples=100, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.floats(0.0, 2.0), st.text("ab", min_size=1, max_size=11)), min_size=1, max_size=20
    ),
    aging_s=st.floats(0.0, 5.0),
    num_blocks=st.integers(9, 14),
    host_blocks=st.sampled_from([0, 10]),
)
def test_nobody_is_admitted_before_who_arrived_earlier_and_is_over_the_bound(
    arrivals: list[tuple[float, str]], aging_s: float, num_blocks: int, host_blocks: int
) -> None:
    arrived: dict[str, float] = {}
    overtaken: list[str] = []
    now = 0.0

    def hear(record: Record) -> None:
        if isinstance(record, Queued):
            arrived[record.request.id] = now
        elif isinstance(record, Admitted) and record.request_id in arrived:
            at = arrived.pop(record.request_id)
            offered = {each.request.id for each in core._scheduler.waiting if not each.awaits}
            overtaken.extend(
                other
                for other, since in arrived.items()
                if since < at and now - since > aging_s and other in offered
            )

    sizes = profile(block_size=2, num_blocks=num_blocks, max_num_seqs=2, host_blocks=host_blocks)
    core = EngineCore(sizes, dispatch=CachedFirst(aging_s), protect_waiting=True, listener=hear)
    for index, (gap, prompt) in enumerate(arrivals):
        core.add(request(str(index), prompt, "12"), now)
        if gap > 1.0:
            now += core.step(now).duration_s
        now += gap
    while core.has_work or core.next_event() is not None:
        if not core.has_work:
            now = max(now, core.next_event() or 0.0)
        now += core.step(now).duration_s
    assert not overtaken
    assert not arrived


@pytest.mark.parametrize(("protect", "hit"), [(False, 0), (True, 8)])
def test_what_waiting_requests_would_hit_is_given_up_last(protect: bool, hit: int) -> None:
    core = EngineCore(profile(num_blocks=7, max_num_seqs=1), protect_waiting=protect)
    run(core, request("old", "abcdefgh"), now=0.0)
    run(core, request("new", "12345678"), now=1.0)
    # The first takes the two empty blocks and two that are cached.
    outputs = run(core, request("big", "ABCDEFGHIJKLMNOP"), request("waits", "abcdefgh+"), now=2.0)
    stats = {each.request_id: each.cached_tokens for output in outputs for each in output.finished}
    assert stats == {"big": 0, "waits": hit}


def test_protection_ends_with_the_wait() -> None:
    core = EngineCore(profile(num_blocks=7, max_num_seqs=1), protect_waiting=True)
    run(core, request("old", "abcdefgh"))
    core.add(request("big", "ABCDEFGHIJKLMNOP"), 1.0)
    core.add(request("waits", "abcdefgh+"), 1.0)
    pool = core._cache.pool
    assert pool.protected == 2
    core.abort("waits")
    assert pool.protected == 0
    assert pool.free == 6


def test_protected_blocks_go_when_nothing_else_is_left_the_last_to_come_first() -> None:
    core = EngineCore(profile(num_blocks=7, max_num_seqs=1), protect_waiting=True)
    run(core, request("first", "abcdefgh"), now=0.0)
    run(core, request("second", "12345678"), now=1.0)
    core.add(request("all", "ABCDEFGHIJKLMNOPQRST"), 2.0)
    core.add(request("f", "abcdefgh+"), 2.0)
    core.add(request("s", "12345678+"), 2.0)
    stats = {stats.request_id: stats.cached_tokens for output in run(core) for stats in output.finished}

    # It needs five blocks: two are empty; of the protected go both of the second and the tail of the first.
    assert stats == {"all": 0, "f": 4, "s": 0}
