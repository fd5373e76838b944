"""What decoding and computing cost is learned from how long steps take."""

import random

import pytest

from llmd_agents_vllm.device.options import Options
from llmd_agents_vllm.device.rates import PREFILL_S, SEQUENCE_S, STEP_S, Rates

STEP, SEQUENCE, TOKEN = 1.2e-3, 3e-4, 2e-5


class Engine:
    """Makes steps that take what they cost; `noise` is a share of that."""

    def __init__(
        self, *, lower: bool = False, noise: float = 0.0, at_once: int = 1000, **stated: float
    ) -> None:
        self.rates = Rates(Options(**stated), sequences_at_once=at_once, lower=lower)
        self._noise = noise
        self._random = random.Random(0)
        self._now = 0.0

    def steps(self, *sequences: int, prompt_tokens: int = 0, more_s: float = 0.0) -> None:
        for count in sequences:
            self.rates.scheduled(self._now, prompt_tokens, count)
            took = STEP + SEQUENCE * count + TOKEN * prompt_tokens + more_s
            self._now += took * (1 + self._noise * self._random.random())
        self.rates.scheduled(self._now, 0, 0)


def test_an_engine_that_has_done_nothing_tells_priors() -> None:
    now = Engine().rates.now
    assert now.step_s == pytest.approx(STEP_S)
    assert now.decode_s_per_seq == pytest.approx(SEQUENCE_S, rel=0.2)
    assert now.prefill_s_per_token == PREFILL_S
    assert now.host_s_per_token is None
    assert Engine(lower=True).rates.now.host_s_per_token == pytest.approx(PREFILL_S / 10)


def test_a_step_and_a_sequence_are_told_apart() -> None:
    engine = Engine()
    engine.steps(*([1] * 20 + [16] * 20) * 5)
    assert engine.rates.now.step_s == pytest.approx(STEP, rel=0.1)
    assert engine.rates.now.decode_s_per_seq == pytest.approx(SEQUENCE, rel=0.1)


def test_sequences_that_must_take_turns_cost_their_share_of_a_step() -> None:
    engine = Engine(at_once=2)
    engine.steps(*[1, 2] * 100)
    assert engine.rates.now.step_s == pytest.approx(STEP, rel=0.1)
    assert engine.rates.now.decode_s_per_seq == pytest.approx((STEP + 2 * SEQUENCE) / 2, rel=0.1)


def test_noise_and_hiccups_change_little() -> None:
    engine = Engine(noise=0.5)
    for _ in range(10):
        engine.steps(*([1] * 20 + [16] * 20))
        engine.steps(1, more_s=2.0)
    assert SEQUENCE / 2 < engine.rates.now.decode_s_per_seq < SEQUENCE * 2


def test_batches_of_one_size_leave_the_slope_as_it_was() -> None:
    engine = Engine(noise=0.5)
    engine.steps(*([1] * 20 + [16] * 20) * 5)
    learned = engine.rates.now.decode_s_per_seq
    engine.steps(*[8] * 5000)
    assert engine.rates.now.decode_s_per_seq == pytest.approx(learned, rel=0.5)


def test_an_engine_that_gets_slower_is_followed() -> None:
    engine = Engine()
    engine.steps(*[4] * 100)
    engine.steps(*[4] * 600, more_s=0.1)
    now = engine.rates.now
    assert now.step_s + 4 * now.decode_s_per_seq == pytest.approx(STEP + 4 * SEQUENCE + 0.1, rel=0.05)


def test_computing_is_what_decoding_does_not_explain() -> None:
    engine = Engine()
    engine.steps(*[1, 4] * 100)
    engine.steps(*[2] * 100, prompt_tokens=500)
    assert engine.rates.now.prefill_s_per_token == pytest.approx(TOKEN, rel=0.1)


def test_a_pause_is_no_step() -> None:
    engine = Engine()
    before = engine.rates.now
    for at in range(10):
        engine.rates.scheduled(at * 3.0, 0, 2)
        engine.rates.paused()
    assert engine.rates.now == before


def test_what_the_operator_states_stands() -> None:
    engine = Engine(
        lower=True, prefill_s_per_token=1e-3, step_s=0.5, decode_s_per_seq=0.25, storage_s_per_token=2e-3
    )
    engine.steps(*[1, 4] * 100)
    engine.steps(2, 2, prompt_tokens=500)
    now = engine.rates.now
    assert (now.prefill_s_per_token, now.step_s, now.decode_s_per_seq) == (1e-3, 0.5, 0.25)
    assert now.host_s_per_token == pytest.approx(1e-4)
    assert now.storage_s_per_token == 2e-3
