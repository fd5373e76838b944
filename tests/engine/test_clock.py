import pytest

from llmd_agents.engine import ModelClock


def test_idle_time_is_wall_time_scaled() -> None:
    clock = ModelClock(100.0, time_scale=10.0)

    assert [clock.now(wall) for wall in (100.0, 100.5, 102.0)] == [0.0, 5.0, 20.0]


def test_busy_time_is_what_the_steps_take() -> None:
    clock = ModelClock(0.0, time_scale=10.0)

    assert clock.start(1.0) == 10.0
    clock.advance(2.0)
    assert clock.start(1.05) == 12.0
    assert clock.owed(1.05) == pytest.approx(0.15)
    assert clock.now(1.1) == pytest.approx(11.0)
    assert clock.now(5.0) == 12.0
    clock.advance(3.0)
    assert clock.now(1.1) == 12.0
    assert clock.owed(1.2) == pytest.approx(0.3)


def test_wall_time_that_python_needed_never_becomes_modelled_time() -> None:
    clock = ModelClock(0.0)
    clock.start(1.0)
    clock.advance(0.5)

    assert clock.owed(7.0) == 0.0
    clock.rest(7.0)

    assert clock.now(7.0) == 1.5
    assert clock.now(8.0) == 2.5
    assert clock.start(8.0) == 2.5


def test_resting_early_does_not_turn_time_back() -> None:
    clock = ModelClock(0.0)
    clock.start(1.0)
    clock.advance(0.5)
    clock.rest(1.2)

    assert [clock.now(wall) for wall in (1.2, 1.5, 2.0)] == [1.5, 1.5, 2.0]


@pytest.mark.parametrize("time_scale", [0.0, -1.0, float("inf"), float("nan")])
def test_scale_must_be_positive(time_scale: float) -> None:
    with pytest.raises(ValueError, match="time_scale must be a positive number"):
        ModelClock(0.0, time_scale=time_scale)


def test_waiting_for_an_event_counts_as_busy_until_it_or_until_something_comes() -> None:
    clock = ModelClock(0.0, time_scale=10.0)
    clock.start(1.0)
    clock.wait_until(12.0)

    assert clock.owed(1.0) == pytest.approx(0.2)
    assert clock.now(1.1) == pytest.approx(11.0)
    assert clock.start(5.0) == 12.0

    clock.wait_until(20.0)
    clock.cut(1.5)
    assert clock.start(9.0) == pytest.approx(15.0)
