import math
import random

from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import Budget, Estimate, Held, eviction_order, residual

NOW = 100.0


def estimate(median: float, *, made_at: float = NOW, sigma: float = 0.5, weight: float = 1.0) -> Estimate:
    return Estimate(made_at, median, sigma, expires_at=made_at + 1000, weight=weight)


@st.composite
def trees(draw: st.DrawFn) -> list[Held]:
    """Trees as engines hold them: a beginning was used no earlier than what extends it."""
    held: list[Held] = []
    for index in range(draw(st.integers(1, 12))):
        parent = draw(st.none() | st.integers(0, index - 1)) if index else None
        latest = NOW if parent is None else held[parent].last_used
        hint = draw(
            st.none()
            | st.builds(
                Estimate,
                made_at=st.floats(0, NOW),
                median=st.floats(0, 500),
                sigma=st.floats(0, 3),
                expires_at=st.floats(0, 300),
                weight=st.floats(0, 1),
            )
        )
        held.append(
            Held(
                parent,
                size=draw(st.integers(1, 9)),
                last_used=draw(st.floats(0, latest)),
                dead=draw(st.booleans()),
                estimate=hint,
                scope=draw(st.sampled_from([None, "a", "b"])),
                cost=draw(st.floats(1, 5)),
            )
        )
    return held


def test_where_nothing_is_known_the_least_recently_used_goes_first() -> None:
    held = [Held(None, 1, last_used=used) for used in (30.0, 10.0, 20.0)]
    assert eviction_order(held, NOW) == [1, 2, 0]


def test_of_two_that_are_needed_equally_soon_the_cheaper_goes() -> None:
    held = [
        Held(None, 1, 90.0, estimate=estimate(50.0), cost=2.0),
        Held(None, 1, 90.0, estimate=estimate(50.0), cost=1.0),
        Held(None, 1, 90.0, estimate=estimate(30.0), cost=1.0),
    ]
    assert eviction_order(held, NOW) == [1, 2, 0]


def test_cost_alone_changes_nothing() -> None:
    held = [Held(None, 1, last_used=used, cost=cost) for used, cost in ((30.0, 1.0), (10.0, 9.0))]
    assert eviction_order(held, NOW) == [1, 0]


def test_what_a_faster_tier_holds_as_well_goes_after_the_dead_alone() -> None:
    held = [
        Held(None, 1, 10.0),
        Held(None, 1, 99.0, spare=True),
        Held(None, 1, 99.0, estimate=estimate(1.0), spare=True),
        Held(None, 1, 50.0, dead=True),
    ]
    assert eviction_order(held, NOW) == [3, 1, 2, 0]


def test_the_dead_go_first_and_a_living_child_keeps_its_parent() -> None:
    held = [
        Held(None, 1, 90.0, dead=True),
        Held(0, 1, 90.0),
        Held(None, 1, 10.0),
        Held(None, 1, 99.0, dead=True),
    ]
    assert eviction_order(held, NOW) == [3, 2, 1, 0]


def test_what_is_needed_last_goes_first() -> None:
    held = [
        Held(None, 1, 99.0, estimate=estimate(300)),
        Held(None, 1, 20.0, estimate=estimate(2)),
        Held(None, 1, 60.0),
    ]
    # 300 s to come; unused for 40 s, so as long again; 2 s to come.
    assert eviction_order(held, NOW) == [0, 2, 1]


def test_an_overdue_estimate_fades_and_an_expired_one_counts_no_more() -> None:
    one = Estimate(made_at=0.0, median=10.0, sigma=1.0, expires_at=500.0)
    waited = [residual(one, 0.0, now) for now in (5.0, 10.0, 50.0, 100.0, 499.0)]
    assert waited == sorted(waited)
    assert math.isclose(residual(one, 0.0, 0.0), 10.0)
    assert residual(one, 0.0, 500.0) == 500.0


@given(st.floats(1e-3, 1e4), st.floats(0, 5), st.floats(0, 1e6))
def test_residuals_are_finite_and_positive(median: float, sigma: float, elapsed: float) -> None:
    one = Estimate(0.0, median, sigma, expires_at=math.inf)
    assert 0 < residual(one, 0.0, elapsed) < math.inf


def test_the_median_of_what_is_left_is_the_sampled_one() -> None:
    draw = random.Random(7)
    samples = sorted(draw.lognormvariate(math.log(8), 1.2) for _ in range(100_000))
    for elapsed in (2.0, 8.0, 30.0):
        left = [sample - elapsed for sample in samples if sample > elapsed]
        expected = left[len(left) // 2]
        got = residual(Estimate(0.0, 8.0, 1.2, math.inf), 0.0, elapsed)
        assert abs(got / expected - 1) < 0.05


@given(trees(), st.floats(0, 50))
def test_every_context_once_and_leaves_before_what_they_extend(held: list[Held], total: float) -> None:
    for budget in (None, Budget(total), Budget(total, {"a": 1.0})):
        order = eviction_order(held, NOW, budget)
        assert sorted(order) == list(range(len(held)))
        place = {index: position for position, index in enumerate(order)}
        for index, item in enumerate(held):
            if item.parent is not None and not item.dead:
                assert place[index] < place[item.parent]


@given(trees())
def test_worthless_estimates_leave_least_recently_used_order(held: list[Held]) -> None:
    def with_weight(item: Held, weight: float | None) -> Held:
        hint = item.estimate
        if hint is not None and weight is not None:
            hint = Estimate(hint.made_at, hint.median, hint.sigma, hint.expires_at, weight)
        return Held(item.parent, item.size, item.last_used, item.dead, hint if weight is not None else None)

    without = eviction_order([with_weight(item, None) for item in held], NOW)
    assert eviction_order([with_weight(item, 0.0) for item in held], NOW) == without


def test_the_budget_bounds_what_is_kept_and_the_soonest_come_first() -> None:
    held = [
        Held(None, 5, 10.0, estimate=estimate(3)),
        Held(None, 5, 11.0, estimate=estimate(2)),
        Held(None, 5, 50.0),
    ]
    assert eviction_order(held, NOW) == [2, 0, 1]
    assert eviction_order(held, NOW, Budget(5)) == [0, 2, 1]
    assert eviction_order(held, NOW, Budget(0)) == [0, 1, 2]


def test_a_scope_spends_its_own_budget() -> None:
    held = [
        Held(None, 5, 10.0, estimate=estimate(3), scope="greedy"),
        Held(None, 5, 11.0, estimate=estimate(4), scope="modest"),
        Held(None, 5, 50.0),
    ]
    assert eviction_order(held, NOW, Budget(10, {"greedy": 4})) == [0, 2, 1]


def test_estimates_that_give_context_up_sooner_need_no_budget() -> None:
    held = [Held(None, 5, 99.0, estimate=estimate(300)), Held(None, 5, 50.0)]
    assert eviction_order(held, NOW, Budget(0)) == [0, 1]
