import math
import random

from llmd_agents.runtime.durations import KINDS_MAX, Durations, Prediction


def test_nothing_is_known_at_first() -> None:
    durations = Durations()
    assert durations.predict("tool") is None
    assert durations.predict("tool", prior=Prediction(8.0, 1.3)) == Prediction(8.0, 1.3)
    believed = durations.predict("tool", hinted=5.0, sigma=0.3)
    assert believed is not None
    assert math.isclose(believed.median, 5.0)


def test_what_was_seen_is_learned() -> None:
    durations, draw = Durations(), random.Random(3)
    for _ in range(200):
        durations.observe("tool", draw.lognormvariate(math.log(20), 0.5))
    learned = durations.predict("tool")
    assert learned is not None
    assert 15 < learned.median < 27
    assert 0.35 < learned.sigma < 0.75


def test_hints_that_are_off_by_a_constant_factor_are_corrected() -> None:
    durations, draw = Durations(), random.Random(3)
    for _ in range(100):
        actual = draw.lognormvariate(math.log(2), 0.2)
        durations.observe("tool", actual, hinted=actual * 100)
    corrected = durations.predict("tool", hinted=200.0)
    assert corrected is not None
    assert 1.3 < corrected.median < 3


def test_hints_that_know_nothing_lose_their_weight() -> None:
    durations, draw = Durations(), random.Random(3)
    for _ in range(300):
        actual = draw.lognormvariate(math.log(10), 0.5)
        durations.observe("tool", actual, hinted=actual * 100 ** draw.uniform(-1, 1))
    for hinted in (0.1, 1000.0):
        predicted = durations.predict("tool", hinted=hinted)
        assert predicted is not None
        assert 4 < predicted.median < 25


def test_memory_is_bounded() -> None:
    durations = Durations()
    for kind in range(KINDS_MAX + 10):
        durations.observe(str(kind), 1.0, hinted=1.0)
    assert durations.predict("0") is None
    assert durations.predict(str(KINDS_MAX)) is not None
