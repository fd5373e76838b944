"""The order of admission, told as small stories, and against the embedded engine's rule."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.engine.dispatch import CachedFirst
from llmd_agents.engine.request import EngineRequest, Progress
from llmd_agents_vllm.options import BadOptions
from llmd_agents_vllm.queue_order import (
    ForkId,
    QueueRule,
    Running,
    Standing,
    Waiting,
    admission_order,
)

RULE = QueueRule(aging_s=10.0, short_tokens=100)
FORK, OTHER = ("p", "f"), ("q", "g")


def waiting(uncached: int, arrival_s: float = 0.0, *, preempted: bool = False, **standing: Any) -> Waiting:
    return Waiting(Standing(**standing), arrival_s, uncached, preempted=preempted)


def branch_decoding(fork: ForkId = FORK, **standing: Any) -> Running:
    return Running(Standing(fork=fork, **standing), decoding=True)


def order(queue: Sequence[Waiting], *running: Running, now: float = 0.0) -> list[int]:
    return admission_order(queue, running, now, RULE)


def test_fewest_uncached_tokens_first_ties_by_arrival() -> None:
    assert order([waiting(5, 1), waiting(3, 2), waiting(5, 0), waiting(0, 3)]) == [3, 1, 2, 0]


def test_an_empty_queue() -> None:
    assert order([]) == []


def test_who_waited_too_long_goes_first_the_oldest_at_the_head() -> None:
    queue = [waiting(1, 9), waiting(500, 2), waiting(400, 1), waiting(1, 8)]
    assert order(queue, now=11.0) == [3, 0, 2, 1]
    assert order(queue, now=11.5) == [2, 3, 0, 1]
    assert order(queue, now=12.1) == [2, 1, 3, 0]


def test_engine_priority_goes_before_all_else() -> None:
    queue = [waiting(1, 0, engine_priority=1), waiting(9, 50, engine_priority=0)]
    assert order(queue, now=50.0) == [1, 0]


def test_program_priority_goes_before_what_is_cached_but_not_before_the_aged() -> None:
    queue = [waiting(1, 5), waiting(9, 5, program_priority=90), waiting(5, 5, program_priority=10)]
    assert order(queue, now=6) == [1, 0, 2]
    assert order([*queue, waiting(9, 0, program_priority=0)], now=10.5) == [3, 1, 0, 2]


def test_the_preempted_stay_at_the_head_in_vllms_order() -> None:
    queue = [waiting(9, 3, preempted=True), waiting(8, 1, preempted=True), waiting(1, 0)]
    assert order(queue, now=20.0) == [0, 1, 2]


def test_a_long_prompt_is_held_back_while_a_branch_decodes() -> None:
    queue = [waiting(101), waiting(100), waiting(5000, fork=OTHER)]
    assert order(queue) == [1, 0, 2]
    assert order(queue, branch_decoding()) == [1, 2]
    assert order(queue, Running(Standing(fork=FORK), decoding=False)) == [1, 0, 2]
    assert order(queue, Running(Standing(), decoding=True)) == [1, 0, 2]
    assert order(queue[:1], branch_decoding()) == []
    assert order(queue[:1], branch_decoding(), now=10.1) == [0]


def test_what_matters_more_than_the_branches_is_not_held_back() -> None:
    queue = [waiting(101, program_priority=60), waiting(101, engine_priority=-1), waiting(101)]
    assert order(queue, branch_decoding()) == [1, 0]
    assert order(queue, branch_decoding(program_priority=60)) == [1]


def test_the_fork_nearest_to_its_join_gets_the_places_of_the_branches() -> None:
    queue = [
        waiting(10, fork=OTHER),
        waiting(11),
        waiting(12, fork=FORK),
        waiting(13, fork=OTHER),
        waiting(101, fork=FORK),
    ]
    # OTHER has 2 to go here, FORK 2 and a running one; the long branch and the plain step keep their places.
    assert order(queue) == [0, 1, 3, 2, 4]
    assert order(queue, branch_decoding(OTHER)) == [2, 1, 0, 3, 4]
    assert order(queue, branch_decoding(FORK)) == [0, 1, 3, 2, 4]


def test_between_forks_as_near_the_earlier_deadline_goes_first() -> None:
    queue = [waiting(1, fork=FORK), waiting(2, fork=OTHER, deadline=50.0)]
    assert order(queue) == [1, 0]


def test_forks_of_different_importance_do_not_trade_places() -> None:
    queue = [
        waiting(1, fork=FORK, program_priority=60),
        waiting(1, fork=FORK, program_priority=60),
        waiting(1, fork=OTHER),
    ]
    assert order(queue) == [0, 1, 2]


def test_hints_of_one_tenant_do_not_hold_up_another() -> None:
    queue = [waiting(300), waiting(300, 1, tenant="b")]
    assert order(queue, branch_decoding(tenant="a")) == [0, 1]
    assert order(queue, branch_decoding(tenant="b")) == [0]
    queue = [waiting(5, tenant="a"), waiting(6, program_priority=100, tenant="b"), waiting(7, tenant="b")]
    assert order(queue) == [0, 1, 2]
    queue = [waiting(5, tenant="a"), waiting(6, tenant="b"), waiting(7, program_priority=100, tenant="b")]
    assert order(queue) == [0, 2, 1]


STANDINGS = st.builds(
    Standing,
    engine_priority=st.integers(-2, 2),
    program_priority=st.integers(0, 100),
    fork=st.sampled_from([None, FORK, OTHER]),
    deadline=st.sampled_from([math.inf, 1.0, 2.0]),
    tenant=st.sampled_from([None, "a"]),
)
QUEUES = st.lists(
    st.builds(Waiting, STANDINGS, st.floats(0, 30), st.integers(0, 300), st.booleans()), max_size=12
)
RUNNING = st.lists(st.builds(Running, STANDINGS, st.booleans()), max_size=4)


@given(QUEUES, RUNNING)
def test_nobody_is_named_twice_and_only_long_fresh_prompts_are_left_out(
    queue: list[Waiting], running: list[Running]
) -> None:
    admitted = order(queue, *running, now=30.0)
    assert len(set(admitted)) == len(admitted)
    for index in set(range(len(queue))) - set(admitted):
        assert queue[index].uncached > RULE.short_tokens
        assert queue[index].standing.fork is None
        assert not queue[index].preempted
        assert 30.0 - queue[index].arrival_s <= RULE.aging_s
    if not any(one.decoding and one.standing.fork for one in running):
        assert len(admitted) == len(queue)


def undeclared(one: Standing) -> Standing:
    return Standing(engine_priority=one.engine_priority, tenant=one.tenant)


@given(QUEUES, RUNNING)
def test_whatever_a_tenant_declares_nobody_of_another_waits_longer(
    queue: list[Waiting], running: list[Running]
) -> None:
    declared = order(queue, *running, now=30.0)
    without = order(
        [replace(one, standing=undeclared(one.standing)) if one.standing.tenant else one for one in queue],
        *(replace(one, standing=undeclared(one.standing)) if one.standing.tenant else one for one in running),
        now=30.0,
    )
    for index, one in enumerate(queue):
        if one.standing.tenant is None:
            assert (index in declared) == (index in without)
            if index in declared:
                assert declared.index(index) <= without.index(index)


@given(QUEUES, RUNNING)
def test_nobody_who_waited_too_long_is_behind_somebody_younger(
    queue: list[Waiting], running: list[Running]
) -> None:
    admitted = [queue[index] for index in order(queue, *running, now=30.0)]
    for place, one in enumerate(admitted):
        if 30.0 - one.arrival_s > RULE.aging_s and not one.preempted:
            for before in admitted[:place]:
                assert (
                    before.preempted
                    or before.standing.engine_priority < one.standing.engine_priority
                    or before.arrival_s <= one.arrival_s
                )


@st.composite
def embedded(draw: st.DrawFn) -> tuple[list[Progress], list[int], list[Progress]]:
    """Returns a queue of the embedded engine in order of arrival, cached tokens, and its running requests."""

    def progress(index: int, arrival_s: float, of_branch: bool, sampled: int) -> Progress:
        prompt = bytes(4 * draw(st.integers(1, 200)))
        request = EngineRequest(str(index), prompt, bytes(40), b"root", of_branch=of_branch)
        made = Progress.start(request, arrival_s)
        made.known += sampled
        return made

    arrivals = sorted(draw(st.lists(st.integers(0, 30), min_size=1, max_size=10)))
    queue = [progress(i, float(at), draw(st.booleans()), 0) for i, at in enumerate(arrivals)]
    cached = [draw(st.integers(0, one.prompt_tokens)) for one in queue]
    running = [
        progress(100 + i, 0.0, draw(st.booleans()), draw(st.integers(0, 2)))
        for i in range(draw(st.integers(0, 3)))
    ]
    return queue, cached, running


@given(embedded(), st.floats(0, 45))
def test_the_embedded_engine_picks_the_same_request(
    case: tuple[list[Progress], list[int], list[Progress]], now: float
) -> None:
    queue, cached, running = case
    cached_of = {progress.request.id: tokens for progress, tokens in zip(queue, cached, strict=True)}
    theirs = CachedFirst(aging_s=10.0, short=100)(
        queue, running, now, lambda progress: cached_of[progress.request.id]
    )
    ours = order(
        [
            waiting(one.prompt_tokens - tokens, one.arrival_s, fork=FORK if one.request.of_branch else None)
            for one, tokens in zip(queue, cached, strict=True)
        ],
        *(
            Running(
                Standing(fork=FORK if one.request.of_branch else None), decoding=one.known > one.prompt_tokens
            )
            for one in running
        ),
        now=now,
    )
    assert (ours[0] if ours else None) == theirs


def test_options() -> None:
    assert QueueRule.of({}) == QueueRule(aging_s=10.0, short_tokens=2048)
    assert QueueRule.of({"aging_s": 2.5, "short_tokens": 0}) == QueueRule(aging_s=2.5, short_tokens=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "should be a valid dictionary"),
        ("aging_s=3", "should be a valid dictionary"),
        ({"ageing_s": 3}, "ageing_s: Extra inputs are not permitted (got 3; options: aging_s, short_tokens)"),
        ({"aging_s": "3"}, "aging_s: Input should be a valid number (got '3'"),
        ({"aging_s": -1}, "aging_s: Input should be greater than or equal to 0 (got -1"),
        ({"aging_s": True}, "aging_s: Input should be a valid number (got True"),
        ({"aging_s": math.nan}, "aging_s: Input should be a finite number (got nan"),
        ({"aging_s": math.inf}, "aging_s: Input should be a finite number (got inf"),
        ({"aging_s": None}, "aging_s: Input should be a valid number (got None"),
        ({"short_tokens": 1.5}, "short_tokens: Input should be a valid integer (got 1.5"),
        ({"short_tokens": -1}, "short_tokens: Input should be greater than or equal to 0 (got -1"),
        ({"short_tokens": True}, "short_tokens: Input should be a valid integer (got True"),
    ],
)
def test_bad_options_say_what_is_wrong(options: Any, message: str) -> None:
    with pytest.raises(BadOptions) as error:
        QueueRule.of(options)
    assert str(error.value).startswith('additional_config["llmd_agents"]: ')
    assert message in str(error.value)
    assert "\n" not in str(error.value)
