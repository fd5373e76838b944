from collections import Counter

import pytest

from llmd_agents.hints import ForkPosition
from llmd_agents.runtime import Candidate, load_and_affinity, placement_by, prefix_aware, spread


def idle(*engines: str, resident: int = 0) -> list[Candidate]:
    return [Candidate(engine, resident, queued=0, running=0) for engine in engines]


def test_the_holder_of_the_prefix_wins() -> None:
    candidates = [*idle("a", "b"), Candidate("c", 90_000, queued=0, running=0)]
    assert load_and_affinity(candidates, 100_000, "k")[0] == "c"


def test_until_waiting_there_costs_more_than_computing_elsewhere() -> None:
    def first(queued: int) -> str:
        holder = Candidate("holder", 90_000, queued=queued, running=2)
        return load_and_affinity([holder, *idle("other")], 100_000, "k")[0]

    assert first(queued=300_000) == "holder"
    assert first(queued=350_000) == "other"


def test_what_must_be_computed_keeps_away_from_branches() -> None:
    def first(missing: int) -> str:
        prompt = 100_000
        with_branches = Candidate("branches", prompt - missing, queued=0, running=1, branches=1)
        busier = Candidate("busier", prompt - missing, queued=0, running=6)
        return load_and_affinity([with_branches, busier], prompt, "k")[0]

    assert first(missing=90_000) == "busier"
    assert first(missing=1_000) == "branches"


def test_equal_engines_share_programs_out_and_each_program_keeps_its_own() -> None:
    engines = [f"e{number}" for number in range(4)]
    firsts = Counter(load_and_affinity(idle(*engines), 1000, f"p{n}")[0] for n in range(1000))
    assert all(180 < count < 320 for count in firsts.values())
    ranking = load_and_affinity(idle(*engines), 1000, "p")
    assert ranking == load_and_affinity(idle(*reversed(engines)), 1000, "p")
    # With an engine gone the others keep their order.
    rest = [engine for engine in ranking if engine != ranking[1]]
    assert load_and_affinity(idle(*rest), 1000, "p") == rest


def test_a_fork_is_spread_evenly_whatever_the_order_of_arrival() -> None:
    engines = ["a", "b", "c"]
    chosen = Counter(
        spread(idle(*engines), ForkPosition(id="f1", index=index, width=8))[0] for index in range(8)
    )
    assert sorted(chosen.values()) == [2, 3, 3]
    position = ForkPosition(id="f1", index=5, width=8)
    assert spread(idle(*engines), position) == spread(idle(*reversed(engines)), position)
    assert sorted(spread(idle(*engines), position)) == engines


def test_no_engines_no_ranking() -> None:
    assert spread([], ForkPosition(id="f", index=0, width=1)) == []
    assert load_and_affinity([], 10, "k") == []


def test_what_lies_in_a_lower_tier_or_at_a_peer_is_nearly_as_good_as_held() -> None:
    holder = Candidate("holder", 90_000, queued=0, running=16)
    host = Candidate("host", 0, queued=0, running=0, loadable=90_000)
    peer = Candidate("peer", 0, queued=0, running=0, copyable=90_000)
    assert load_and_affinity([holder, host, peer, *idle("none")], 100_000, "k") == [
        "host",
        "peer",
        "holder",
        "none",
    ]


def test_prefix_aware_counts_the_device_alone() -> None:
    host = Candidate("host", 0, queued=0, running=0, loadable=90_000)
    device = Candidate("device", 10_000, queued=10**6, running=2)
    assert prefix_aware([host, device], 100_000, "k")[0] == "device"
    assert prefix_aware([host, Candidate("device", 10_000, 0, running=3)], 100_000, "k")[0] == "host"


def test_round_robin_takes_turns() -> None:
    turns = placement_by("round_robin")
    engines = idle("a", "b", "c")
    assert [turns(engines, 10, "k")[0] for _ in range(4)] == ["a", "b", "c", "a"]
    assert turns([], 10, "k") == []


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="load_and_affinity, prefix_aware, round_robin"):
        placement_by("luck")
