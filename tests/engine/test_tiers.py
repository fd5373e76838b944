"""Lower tiers, transfers and peers: small stories."""

import dataclasses

import pytest
from pydantic import ValidationError

from llmd_agents.engine import (
    EngineCore,
    EngineProfile,
    Export,
    Loaded,
    Loading,
    PeerRead,
    Record,
    RequestStats,
)
from llmd_agents.hints import Demote, Directive, DirectiveOutcome, Prefetch, Release, Tier, Warm
from tests.engine.stories import digest, log, profile, request, run


def told(core: EngineCore) -> list[str]:
    """What is resident, as "A8 host"."""
    return [f"{c.digest[:1].decode()}{c.tokens} {c.tier}" for c in core.resident()]


def finished(core: EngineCore, name: str, prompt: str, now: float) -> RequestStats:
    (stats,) = [stats for output in run(core, request(name, prompt), now=now) for stats in output.finished]
    return stats


def outcome(core: EngineCore, directive: Directive, now: float) -> DirectiveOutcome:
    answer = core.direct("a", directive, now)
    assert isinstance(answer, DirectiveOutcome)
    return answer


def pushed_out(sizes: EngineProfile, records: list[Record] | None = None) -> EngineCore:
    """A context of two blocks that others have pushed from a device of six."""
    core = EngineCore(sizes, listener=records.append if records is not None else None)
    run(core, request("first", "abcdefgh", boundaries=[("A", 8)]), now=0.0)
    run(core, request("push", "0" * 24), now=10.0)
    return core


def test_what_leaves_the_device_goes_to_the_host_and_then_to_storage() -> None:
    core = pushed_out(profile(num_blocks=7, host_blocks=2, storage_blocks=2))
    assert told(core) == ["A8 host", "A8 storage"]
    run(core, request("push 2", "1" * 8), now=20.0)
    assert told(core) == ["A8 storage"]
    run(core, request("push 3", "2" * 8), now=30.0)
    assert told(core) == []


def test_a_context_split_over_tiers_is_resident_where_all_of_it_can_be_served_from() -> None:
    core = EngineCore(profile(num_blocks=7, host_blocks=4))
    run(core, request("first", "abcdefgh", boundaries=[("B", 4), ("A", 8)]), now=0.0)
    assert told(core) == ["B4 device", "B4 host", "A8 device", "A8 host"]
    run(core, request("push", "0" * 20), now=10.0)  # pushes the tail alone
    assert told(core) == ["B4 device", "B4 host", "A8 host"]


def test_loading_beats_computing_and_counts_as_cached() -> None:
    records: list[Record] = []
    core = pushed_out(profile(num_blocks=7, host_blocks=4), records)
    del records[:]
    stats = finished(core, "again", "abcdefgh+", now=20.0)

    assert [type(record).__name__ for record in records] == [
        *("Queued", "Evicted", "Evicted", "Loading", "Loaded", "Admitted", "Evicted"),
        *("Scheduled", "Finished"),
    ]
    assert [type(record) for record in records if isinstance(record, Loading | Loaded)] == [Loading, Loaded]
    assert stats.cached_tokens == 8
    assert stats.queue_s == pytest.approx(0.03)  # a latency of 0.01 s and two blocks of 0.01 s
    assert stats.ttft_s == pytest.approx(0.03 + 1.1)
    assert core.totals.cached_by_source == {"device": 0, "host": 8, "disk": 0, "p2p": 0}
    assert core.transferred_bytes["host"] == 8


def test_computing_beats_a_slow_tier() -> None:
    slow = dataclasses.replace(profile(num_blocks=7, host_blocks=4), host_bytes_per_s=1.0)
    stats = finished(pushed_out(slow), "again", "abcdefgh+", now=20.0)
    assert (stats.cached_tokens, stats.queue_s) == (0, 0.0)


def test_only_the_part_that_is_worth_it_is_loaded() -> None:
    sizes = profile(num_blocks=7, host_blocks=1, storage_blocks=4)
    slow = dataclasses.replace(sizes, storage_bytes_per_s=0.1)
    core = EngineCore(slow)
    run(core, request("first", "abcdefghijkl"), now=0.0)
    run(core, request("push", "0" * 24), now=10.0)  # the head, pushed last, is in the host tier
    stats = finished(core, "again", "abcdefghijkl+", now=20.0)
    assert stats.cached_tokens == 4
    assert core.totals.cached_by_source["host"] == 4


def test_others_run_while_one_waits_for_its_blocks() -> None:
    core = pushed_out(profile(num_blocks=12, host_blocks=8))
    run(core, request("push more", "1" * 40), now=15.0)
    core.add(request("loads", "abcdefgh+"), 20.0)
    core.add(request("computes", "xyz"), 20.0)
    first = core.step(20.0)
    assert set(first.tokens) == {"computes"}
    second = core.step(20.0 + first.duration_s)
    assert set(second.tokens) == {"loads"}


def test_requests_that_only_wait_are_no_work() -> None:
    core = pushed_out(profile(num_blocks=7, host_blocks=4))
    core.add(request("again", "abcdefgh+"), 20.0)
    assert core.has_work
    idle = core.step(20.0)
    assert (idle.duration_s, idle.tokens) == (0.0, {})
    assert not core.has_work
    event = core.next_event()
    assert event == pytest.approx(20.03)
    assert set(core.step(event).tokens) == {"again"}
    assert core.next_event() is None


def test_a_second_request_waits_for_the_same_transfer() -> None:
    core = pushed_out(profile(num_blocks=9, host_blocks=8))
    run(core, request("push more", "1" * 32), now=15.0)
    outputs = run(core, request("one", "abcdefgh+"), request("two", "abcdefgh-"), now=20.0)
    stats = {each.request_id: each.cached_tokens for output in outputs for each in output.finished}
    assert stats == {"one": 8, "two": 8}
    assert core.transferred_bytes["host"] == 8
    assert core.totals.cached_by_source["host"] == 16


def test_dead_context_goes_to_no_lower_tier() -> None:
    core = EngineCore(profile(num_blocks=7, host_blocks=4))
    run(core, request("first", "abcdefgh", boundaries=[("A", 8)]), now=0.0)
    outcome(core, Release(digest=digest("A")), 5.0)
    run(core, request("push", "0" * 24), now=10.0)
    assert told(core) == []
    assert core.kv("e", 10.0).used == {"device": 24, "host": 0}


def test_demote_frees_the_device_at_once() -> None:
    core = EngineCore(profile(num_blocks=9, host_blocks=4))
    run(core, request("first", "ssssaaaa", boundaries=[("S", 4), ("A", 8)]), now=0.0)
    answer = outcome(core, Demote(digest=digest("A"), keep=digest("S")), 5.0)
    assert (answer.outcome, answer.tokens) == ("applied", 4)
    assert told(core) == ["S4 device", "S4 host", "A8 host"]
    assert core.kv("e", 5.0).used == {"device": 4, "host": 4}
    gone = [c for c in core.take_residency() if not c.resident]
    assert [(c.digest, c.tier) for c in gone] == [(digest("A"), "device")]

    core.add(request("uses", "ssss1", "12", boundaries=[("S", 4)]), 6.0)
    core.step(6.0)
    answer = outcome(core, Demote(digest=digest("S")), 6.5)
    assert (answer.outcome, answer.reason) == ("clipped", "some of it is in use")


def test_engines_without_the_tier_say_so() -> None:
    core = EngineCore(profile())
    run(core, request("first", "abcdefgh", boundaries=[("A", 8)]))
    for directive in (Demote(digest=digest("A")), Prefetch(digest=digest("A"), tier="host")):
        assert outcome(core, directive, 1.0).reason == "this engine has no host tier"
        assert outcome(core, directive, 1.0).outcome == "unsupported"
    peer = outcome(core, Prefetch(digest=digest("A"), peer="http://b"), 1.0)
    assert (peer.outcome, peer.reason) == ("unsupported", "this engine cannot read from peers")


def test_prefetch_brings_context_ahead_of_its_use() -> None:
    core = pushed_out(profile(num_blocks=9, host_blocks=8))
    run(core, request("push more", "1" * 32), now=15.0)
    directive = Prefetch(digest=digest("A"), tier=Tier.HOST)
    assert outcome(core, directive, 20.0).tokens == 8
    assert told(core) == ["A8 host"]
    core.step(core.next_event() or 0.0)
    assert told(core) == ["A8 host", "A8 device"]
    stats = finished(core, "again", "abcdefgh+", now=30.0)
    assert (stats.cached_tokens, stats.queue_s) == (8, 0.0)
    assert core.totals.cached_by_source["device"] == 8
    assert outcome(core, directive, 40.0).outcome == "applied"
    assert core.next_event() is None
    assert outcome(core, Prefetch(digest=digest("Z"), tier="host"), 40.0).reason == "unknown digest"


def test_prefetch_takes_a_quarter_of_the_device_at_most() -> None:
    core = EngineCore(profile(num_blocks=9, host_blocks=16))
    run(core, request("first", "aaaabbbbccccdddd", boundaries=[("A", 16)]), now=0.0)
    run(core, request("push", "1" * 32), now=15.0)
    answer = outcome(core, Prefetch(digest=digest("A"), tier="host"), 20.0)
    reason = "reading ahead may take no more room now"
    assert (answer.outcome, answer.reason, answer.tokens) == ("clipped", reason, 8)
    again = outcome(core, Prefetch(digest=digest("A"), tier="host"), 20.0)
    assert (again.outcome, again.reason) == ("rejected", reason)


def test_prefetch_leaves_what_waiting_requests_need() -> None:
    core = EngineCore(profile(num_blocks=9, host_blocks=16, max_num_seqs=1))
    run(core, request("first", "aaaabbbb", boundaries=[("A", 8)]), now=0.0)
    run(core, request("push", "1" * 32), now=15.0)
    core.add(request("waits", "2" * 28), 20.0)
    answer = outcome(core, Prefetch(digest=digest("A"), tier="host"), 20.0)
    assert (answer.outcome, answer.tokens) == ("clipped", 4)


def two_engines() -> tuple[EngineCore, EngineCore, PeerRead]:
    there, here = EngineCore(profile(num_blocks=20)), EngineCore(profile(num_blocks=20, peers=True))
    run(there, request("first", "ssssaaaabb", boundaries=[("S", 4), ("A", 10)]), now=0.0)
    read = here.direct("x", Prefetch(digest=digest("A"), peer="b"), 5.0)
    assert isinstance(read, PeerRead)
    assert (read.action_id, read.peer, read.digest, read.scope) == ("x", "b", digest("A"), None)
    return there, here, read


def test_context_is_copied_from_a_peer_and_known_here_then() -> None:
    there, here, read = two_engines()
    export = there.export(read.digest, read.scope, 5.0)
    assert export is not None
    copied = Export.model_validate_json(export.model_dump_json())
    answer = here.receive(read, copied, 5.0)
    assert answer == DirectiveOutcome(action_id="x", outcome="applied", tokens=10)
    assert here.next_event() == pytest.approx(5.21)
    assert told(here) == []
    here.step(5.3)
    assert told(here) == ["S4 device", "A10 device"]
    assert finished(here, "next", "ssssaaaabb+", now=6.0).cached_tokens == 8
    assert here.directive_outcomes == {("prefetch", "applied"): 1}


def test_request_that_arrives_meanwhile_waits_for_the_copy() -> None:
    there, here, read = two_engines()
    here.receive(read, there.export(read.digest, None, 5.0), 5.0)
    stats = finished(here, "child", "ssssaaaabb+", now=5.1)
    assert stats.cached_tokens == 8
    assert stats.queue_s == pytest.approx(0.11)
    assert here.totals.cached_by_source == {"device": 0, "host": 0, "disk": 0, "p2p": 8}


def test_peer_that_holds_nothing_or_other_blocks() -> None:
    there, here, read = two_engines()
    assert there.export(digest("Z"), None, 5.0) is None
    assert there.export(digest("A"), "other", 5.0) is None
    assert here.receive(read, None, 5.0).reason == "the peer does not hold it"
    other = Export(block_size=8, tokens=8, hashes=(bytes(16),))
    assert here.receive(read, other, 5.0).reason == "the peer's blocks are of 8 tokens"
    export = there.export(read.digest, None, 5.0)
    assert export is not None
    part = Export(block_size=4, tokens=4, hashes=export.hashes[:1], boundaries=export.boundaries[:1])
    answer = here.receive(read, part, 5.0)
    assert (answer.outcome, answer.reason, answer.tokens) == ("clipped", "the peer holds no more", 4)


def test_peer_exports_the_part_that_it_still_holds() -> None:
    there = EngineCore(profile(num_blocks=7))
    run(there, request("first", "ssssaaaabbbb", boundaries=[("S", 4), ("A", 12)]), now=0.0)
    run(there, request("push", "1" * 16), now=5.0)  # one block goes
    export = there.export(digest("A"), None, 6.0)
    assert export is not None
    assert (export.tokens, len(export.hashes)) == (8, 2)
    assert [boundary.tokens for boundary in export.boundaries] == [4]


@pytest.mark.parametrize(
    "bad",
    [
        {"block_size": 0, "tokens": 4, "hashes": []},
        {"block_size": 4, "tokens": 8, "hashes": ["00" * 16]},
        {"block_size": 4, "tokens": 4, "hashes": ["00"]},
        {
            "block_size": 4,
            "tokens": 4,
            "hashes": ["00" * 16],
            "boundaries": [{"digest": "11" * 16, "tokens": 9}],
        },
    ],
)
def test_exports_that_are_none(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Export.model_validate(bad)


def test_warm_computes_behind_all_others_and_unheard_of() -> None:
    records: list[Record] = []
    core = EngineCore(profile(num_blocks=7), listener=records.append)
    run(core, request("first", "ssssaaaabb", "12", boundaries=[("S", 4), ("A", 10)]), now=0.0)
    run(core, request("push", "1" * 24), now=10.0)
    totals = dataclasses.replace(core.totals)
    core.add(request("other", "9999"), 20.0)
    answer = outcome(core, Warm(digest=digest("A")), 20.0)
    assert (answer.outcome, answer.tokens) == ("applied", 10)
    del records[:]
    outputs = run(core, now=20.0)
    assert log(records)[0] == "admitted other 0"
    assert [set(output.tokens) for output in outputs] == [{"other"}]
    assert [stats.request_id for output in outputs for stats in output.finished] == ["other"]
    assert core.totals.generation_tokens == totals.generation_tokens + 1
    assert core.totals.prompt_tokens == totals.prompt_tokens + 4
    assert told(core) == ["S4 device", "A10 device"]
    assert outcome(core, Warm(digest=digest("A")), 40.0) == answer
    assert not core.has_work
    rejected = outcome(core, Warm(digest=digest("Z")), 40.0)
    assert (rejected.outcome, rejected.reason) == ("rejected", "this engine remembers no prompt with it")


def test_reset_drops_what_is_on_its_way() -> None:
    core = pushed_out(profile(num_blocks=7, host_blocks=4))
    core.add(request("again", "abcdefgh+"), 20.0)
    core.step(20.0)
    assert core.reset_prefix_cache()
    assert core.next_event() is None
    assert told(core) == []
    (stats,) = [stats for output in run(core, now=20.0) for stats in output.finished]
    assert stats.cached_tokens == 0


def test_engine_tells_of_its_cache() -> None:
    core = pushed_out(profile(num_blocks=7, host_blocks=4, peers=True))
    kv = core.kv("epoch", 20.0)
    assert (kv.epoch, kv.budget) == ("epoch", 20)
    assert kv.directives == ("retain", "release", "prefetch", "demote", "warm")
    assert kv.tiers == {"device": 24, "host": 16}
    assert kv.used == {"device": 24, "host": 8}
    assert kv.rates == core.profile.rates
