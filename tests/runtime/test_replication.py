from collections import Counter

from llmd_agents.hints import EngineRates
from llmd_agents.runtime.replication import DEFAULT_RATES, HELD_UP, Site, plan_fork, ways_to_hold

RATES = EngineRates(
    prefill_s_per_token=5e-5,
    step_s=7e-3,
    decode_s_per_seq=5e-5,
    decode_s_per_context_token=6.5e-8,
    host_s_per_token=3e-6,
    peer_s_per_token=3e-6,
)
DIGEST = b"d" * 16


def site(engine: str, tokens: int, *, held: bool = False, copyable: bool = True, running: int = 0) -> Site:
    way, ready = ways_to_hold(tokens, RATES, held=held, loadable=False, copyable=copyable, queued_tokens=0)
    return Site(engine, RATES, way, ready, running, running * 30_000)


def test_the_cheapest_way_to_hold_a_context() -> None:
    def way(**given: bool) -> str:
        options = {"held": False, "loadable": False, "copyable": False, **given}
        return ways_to_hold(30_000, RATES, queued_tokens=0, **options)[0]

    assert way(held=True, copyable=True) == "held"
    assert way(copyable=True) == "copy"
    assert way(loadable=True) == "load"
    assert way() == "compute"
    # Without rates for them the other ways are not known to be there.
    told_nothing = ways_to_hold(
        30_000, DEFAULT_RATES, held=False, loadable=True, copyable=True, queued_tokens=0
    )
    assert told_nothing[0] == "compute"


def test_a_small_fork_of_a_short_context_stays_on_one_engine() -> None:
    sites = [site("a", 2_000, held=True), site("b", 2_000, copyable=False)]
    plan = plan_fork(DIGEST, 2, 2_000, sites, 100)
    assert plan is not None
    assert plan.engines == ("a", "a")
    assert plan.ways == {"a": "held"}


def test_a_copy_spreads_a_fork_evenly() -> None:
    sites = [site("a", 30_000, held=True), site("b", 30_000), site("c", 30_000)]
    plan = plan_fork(DIGEST, 20, 30_000, sites, 400)
    assert plan is not None
    assert sorted(Counter(plan.engines).values()) == [6, 7, 7]
    assert plan.ways == {"a": "held", "b": "copy", "c": "copy"}
    assert plan.engines[0] == "a"


def test_one_engine_more_must_be_worth_it() -> None:
    """A third would win a little, and hold the join up wherever others' work comes in between."""
    sites = [site("a", 30_000, held=True), site("b", 30_000), site("c", 30_000)]
    plan = plan_fork(DIGEST, 8, 30_000, sites, 400)
    assert plan is not None
    assert Counter(plan.engines) == {"a": 4, "b": 4}


def test_branches_keep_away_from_queues() -> None:
    held = ways_to_hold(30_000, RATES, held=True, loadable=False, copyable=False, queued_tokens=80_000)
    assert held == ("held", 80_000 * RATES.prefill_s_per_token * HELD_UP)
    copied = ways_to_hold(30_000, RATES, held=False, loadable=False, copyable=True, queued_tokens=0)
    assert copied[0] == "copy"
    assert copied[1] < held[1]


def test_computing_it_again_is_worth_it_only_for_wide_forks() -> None:
    sites = [site("a", 30_000, held=True), site("b", 30_000, copyable=False)]
    narrow = plan_fork(DIGEST, 2, 30_000, sites, 100)
    wide = plan_fork(DIGEST, 50, 30_000, sites, 400)
    assert narrow is not None
    assert wide is not None
    assert set(narrow.engines) == {"a"}
    assert set(wide.engines) == {"a", "b"}


def test_busy_engines_get_fewer_branches() -> None:
    sites = [site("a", 30_000, held=True, running=6), site("b", 30_000)]
    plan = plan_fork(DIGEST, 8, 30_000, sites, 400)
    assert plan is not None
    given = Counter(plan.engines)
    assert given["b"] > given["a"]


def test_a_very_wide_fork_is_planned_in_proportion() -> None:
    plan = plan_fork(DIGEST, 100_000, 1_000, [site("a", 1_000, held=True), site("b", 1_000)], 100)
    assert plan is not None
    assert len(plan.engines) <= 512
    assert set(plan.engines) == {"a", "b"}


def test_without_an_engine_there_is_no_plan() -> None:
    assert plan_fork(DIGEST, 3, 100, [], 10) is None


def test_a_plan_without_one_of_its_engines() -> None:
    sites = [site("a", 30_000, held=True), site("b", 30_000), site("c", 30_000)]
    plan = plan_fork(DIGEST, 20, 30_000, sites, 400)
    assert plan is not None
    rest = plan.without("b")
    assert len(rest.engines) == 20
    assert set(rest.engines) == {"a", "c"}
    assert "b" not in rest.ways
