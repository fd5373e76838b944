import math
import random

from llmd_agents.runtime.durations import KINDS_MAX, Durations
from llmd_agents.runtime.prediction import Prediction


def wait(durations: Durations, seconds: float, hinted: float | None) -> None:
    """Lets somebody wait for a tool from time 0 on."""
    durations.begin("somebody", "tool", 0.0, hinted)
    durations.end("somebody", seconds)


def test_nothing_is_known_at_first() -> None:
    durations = Durations()
    assert durations.predict("tool", 0.0) is None
    assert durations.predict("tool", 0.0, prior=Prediction(8.0, 1.3)) == Prediction(8.0, 1.3)
    believed = durations.predict("tool", 0.0, hinted=5.0, sigma=0.3)
    assert believed is not None
    assert math.isclose(believed.median, 5.0)


def test_what_was_seen_is_learned() -> None:
    durations, draw = Durations(), random.Random(3)
    for _ in range(200):
        durations.observe("tool", draw.lognormvariate(math.log(20), 0.5))
    learned = durations.predict("tool", 0.0)
    assert learned is not None
    assert 15 < learned.median < 27
    assert 0.35 < learned.sigma < 0.75


def test_hints_that_are_off_by_a_constant_factor_are_corrected() -> None:
    durations, draw = Durations(), random.Random(3)
    for _ in range(100):
        actual = draw.lognormvariate(math.log(2), 0.2)
        wait(durations, actual, hinted=actual * 100)
    corrected = durations.predict("tool", 0.0, hinted=200.0)
    assert corrected is not None
    assert 1.3 < corrected.median < 3


def test_hints_that_know_nothing_lose_their_weight() -> None:
    durations, draw = Durations(), random.Random(3)
    for _ in range(300):
        actual = draw.lognormvariate(math.log(10), 0.5)
        wait(durations, actual, hinted=actual * 100 ** draw.uniform(-1, 1))
    for hinted in (0.1, 1000.0):
        predicted = durations.predict("tool", 0.0, hinted=hinted)
        assert predicted is not None
        assert 4 < predicted.median < 25


def test_memory_is_bounded() -> None:
    durations = Durations()
    for kind in range(KINDS_MAX + 10):
        durations.observe(str(kind), 1.0)
    assert durations.predict("0", 0.0) is None
    assert durations.predict(str(KINDS_MAX), 0.0) is not None


def test_waits_that_are_not_over_count() -> None:
    """In the first minutes only short waits have ended; what goes on says that many are longer."""
    durations, draw = Durations(), random.Random(3)
    waits = [(draw.uniform(0, 600), draw.lognormvariate(math.log(240), 1.0)) for _ in range(300)]
    seen = sorted((at + seconds, who, at) for who, (at, seconds) in enumerate(waits))
    for who, (at, _) in enumerate(waits):
        durations.begin(who, "human", at, prior=Prediction(30.0, 1.3))
    ended = [(end, who) for end, who, _ in seen if end < 600]
    for end, who in ended:
        durations.end(who, end)
    naive = math.exp(sum(math.log(waits[who][1]) for _, who in ended) / len(ended))
    learned = durations.predict("human", 600.0)
    assert learned is not None
    assert naive < 170
    assert 190 < learned.median < 300
    assert 0.7 < learned.sigma < 1.3


def test_a_dropped_wait_says_nothing_more() -> None:
    durations = Durations()
    for who in range(100):
        durations.begin(who, "tool", 0.0)
        if who % 2:
            durations.end(who, 10.0)
        else:
            durations.drop(who)
    learned = durations.predict("tool", 1e6)
    assert learned is not None
    assert 8 < learned.median < 12
    assert learned.observations == 50


def test_a_wait_may_last_longer_than_any_interval() -> None:
    durations = Durations()
    durations.begin("somebody", "human", 0.0)
    assert durations.predict("human", 1e9) is None
    durations.end("somebody", 1e9)
    assert durations.predict("human", 1e9) is not None
