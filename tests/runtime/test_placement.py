from collections import Counter

from llmd_agents.hints import ForkPosition
from llmd_agents.runtime import Candidate, load_and_affinity, spread


def idle(*engines: str, resident: int = 0) -> list[Candidate]:
    return [Candidate(engine, resident, queued=0, running=0) for engine in engines]


def test_the_holder_of_the_prefix_wins() -> None:
    candidates = [*idle("a", "b"), Candidate("c", 90_000, queued=0, running=0)]
    assert load_and_affinity(candidates, 100_000, "k")[0] == "c"


def test_until_waiting_there_costs_more_than_computing_elsewhere() -> None:
    def first(queued: int) -> str:
        holder = Candidate("holder", 90_000, queued=queued, running=2)
        return load_and_affinity([holder, *idle("other")], 100_000, "k")[0]

    assert first(queued=50_000) == "holder"
    assert first(queued=95_000) == "other"


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
