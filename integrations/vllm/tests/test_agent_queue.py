"""The queue on vLLM's own queues and requests, with the clock and the cache in the test's hand."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from vllm import SamplingParams
from vllm.v1.core.sched.request_queue import (
    FCFSRequestQueue,
    PriorityRequestQueue,
    SchedulingPolicy,
    create_request_queue,
)
from vllm.v1.request import Request, RequestStatus

from llmd_agents.hints import ForkPosition, Hints, Program, Step, encode_hints
from llmd_agents_vllm import agent_queue
from llmd_agents_vllm.agent_queue import FEW, KEPT_STEPS, WINDOW, AgentQueue
from llmd_agents_vllm.carried import KEY
from llmd_agents_vllm.queue_order import QueueRule

BLOCK = 4


def hinted(*, program: str = "p", priority: int = 50, fork: str | None = None) -> dict[str, Any]:
    position = None if fork is None else ForkPosition(id=fork, index=0, width=8)
    hints = Hints(program=Program(id=program, priority=priority), step=Step(id="s", fork=position))
    return {KEY: {"v": 1, "header": encode_hints(hints)}}


def request(
    name: str,
    tokens: int | Sequence[int] = 4,
    *,
    params: Any = None,
    priority: int = 0,
    arrival: float = 0.0,
    status: RequestStatus = RequestStatus.WAITING,
) -> Request:
    prompt = list(range(tokens)) if isinstance(tokens, int) else list(tokens)
    extra = None if params is None else {"kv_transfer_params": params}
    made = Request(
        name,
        prompt,
        SamplingParams(max_tokens=4, extra_args=extra),
        None,
        arrival_time=arrival,
        priority=priority,
    )
    # Blocks are named by the tokens up to their end.
    made.block_hashes = [bytes(prompt[:end]) for end in range(BLOCK, len(prompt) + 1, BLOCK)]
    made.status = status
    return made


class Cache:
    """Which blocks are cached."""

    block_size = BLOCK

    def __init__(self) -> None:
        self.blocks: set[bytes] = set()
        self.looked = 0

    def present(self, request: Request, before: int) -> int:
        self.looked += 1
        usable = request.block_hashes[: (request.num_tokens - 1) // BLOCK]
        return next((at for at, name in enumerate(usable) if name not in self.blocks), len(usable))

    def next_missing(self, request: Request, present: int) -> bytes | None:
        usable = request.block_hashes[: (request.num_tokens - 1) // BLOCK]
        return usable[present] if present < len(usable) else None


class Engine:
    """The parts of a scheduler that the queue sees."""

    def __init__(self, policy: SchedulingPolicy = SchedulingPolicy.FCFS, **rule: Any) -> None:
        self.now = 0.0
        self.step = 0
        self.running: list[Request] = []
        self.cache = Cache()
        self.inner = create_request_queue(policy)
        self.queue = AgentQueue(
            self.inner,
            QueueRule(**rule),
            by_engine_priority=policy == SchedulingPolicy.PRIORITY,
            running=lambda: self.running,
            step=lambda: self.step,
            cached=self.cache,
            clock=lambda: self.now,
        )

    def add(self, *requests: Request) -> "Engine":
        for one in requests:
            self.queue.add_request(one)
        return self

    def admit(self) -> Request:
        assert self.queue
        head = self.queue.peek_request()
        assert self.queue.pop_request() is head
        head.status = RequestStatus.RUNNING
        self.running.append(head)
        self.cache.blocks.update(head.block_hashes)
        return head

    def admit_all(self) -> list[str]:
        self.step += 1
        names = []
        while self.queue:
            names.append(self.admit().request_id)
        return names


def test_fewest_uncached_tokens_first() -> None:
    engine = Engine()
    engine.cache.blocks.update(request("x", 16).block_hashes)
    engine.add(request("short", [9] * 6), request("shorter", [8] * 3), request("cached", 18))
    assert engine.admit_all() == ["cached", "shorter", "short"]


def test_what_one_brings_helps_the_next_in_the_same_step() -> None:
    shared = [7] * 16
    engine = Engine().add(
        request("a", [*shared, 1, 2, 3]), request("b", [5] * 20), request("c", [*shared, 4, 5, 6, 7])
    )
    # c, the longest prompt of all, goes before b once a has brought its prefix.
    assert engine.admit_all() == ["a", "c", "b"]


def test_the_cache_is_looked_at_once_a_step_where_nobody_shares() -> None:
    engine = Engine().add(*(request(str(n), [n] * 9) for n in range(20)))
    engine.admit_all()
    assert engine.cache.looked == 20


def test_an_order_of_many_is_kept_for_some_steps_unless_somebody_comes() -> None:
    engine = Engine().add(*(request(str(n), [n] * 9) for n in range(FEW + 1)))
    for _ in range(KEPT_STEPS):
        assert engine.queue
        engine.step += 1
    assert engine.cache.looked == FEW + 1
    assert engine.queue
    assert engine.cache.looked == 2 * (FEW + 1)
    engine.add(request("new", 1))
    assert engine.queue.peek_request().request_id == "new"


def test_the_aging_bound_holds_for_the_clock_given() -> None:
    engine = Engine(aging_s=10.0).add(request("long", 40))
    engine.now = 10.0
    engine.add(request("short", 2))
    assert engine.queue.peek_request().request_id == "short"
    engine.now, engine.step = 10.1, 1
    assert engine.admit_all() == ["long", "short"]


def test_arrival_is_when_the_request_came_to_the_queue_even_if_it_comes_back() -> None:
    engine = Engine(aging_s=10.0).add(request("long", 40))
    engine.now, engine.step = 1.0, 1
    skipped = engine.add(request("short", 2)).queue.pop_request()
    engine.now = 9.0
    engine.queue.prepend_requests([skipped])
    engine.now, engine.step = 10.5, 2
    engine.add(request("young", [9] * 5))
    assert engine.admit_all() == ["long", "short", "young"]


def test_program_priority() -> None:
    engine = Engine().add(
        request("plain", 2),
        request("minor", 1, params=hinted(priority=10)),
        request("major", 30, params=hinted(priority=90)),
    )
    assert engine.admit_all() == ["major", "plain", "minor"]


def test_engine_priority_counts_only_under_vllms_priority_policy() -> None:
    def requests() -> list[Request]:
        return [request("a", 2, priority=5), request("b", 9, priority=-5), request("c", 1, priority=0)]

    assert Engine().add(*requests()).admit_all() == ["c", "a", "b"]
    assert Engine(SchedulingPolicy.PRIORITY).add(*requests()).admit_all() == ["b", "c", "a"]


def test_preempted_requests_stay_at_the_head() -> None:
    engine = Engine().add(request("short", 1))
    for name in ("first", "second"):
        engine.queue.prepend_request(request(name, 30, status=RequestStatus.PREEMPTED))
    assert engine.admit_all() == ["second", "first", "short"]


def test_a_long_prompt_waits_while_a_branch_decodes_and_the_queue_says_so() -> None:
    engine = Engine(short_tokens=8).add(request("branch", 2, params=hinted(fork="f")), request("long", 30))
    branch = engine.admit()
    engine.step = 1
    assert engine.queue
    branch.append_output_token_ids(1)
    engine.step = 2
    assert not engine.queue
    assert len(engine.queue) == 1
    assert [one.request_id for one in engine.queue] == ["long"]
    with pytest.raises(IndexError):
        engine.queue.peek_request()
    engine.running.clear()
    engine.step = 3
    assert engine.admit_all() == ["long"]


def test_only_a_window_is_put_in_order_and_all_are_admitted() -> None:
    engine = Engine().add(*(request(str(n), [n] * 7) for n in range(WINDOW)), request("short", 1))
    assert engine.queue.peek_request().request_id == "0"
    names = engine.admit_all()
    assert names[-1] == "short"
    assert len(names) == len(set(names)) == WINDOW + 1
    engine.add(request("a", 7), request("b", 1))
    assert engine.admit_all() == ["b", "a"]


def test_behind_a_window_of_long_prompts_that_wait_the_next_is_looked_at() -> None:
    engine = Engine(short_tokens=8).add(request("branch", 2, params=hinted(fork="f")))
    engine.admit().append_output_token_ids(1)
    engine.add(*(request(str(n), 30) for n in range(WINDOW)), request("short", 2))
    engine.step = 1
    assert engine.admit().request_id == "short"
    engine.step = 2
    assert not engine.queue


def test_malformed_hints_count_as_none() -> None:
    engine = Engine().add(
        request("long", 9, params={KEY: {"v": 1, "header": "priority=("}}),
        request("short", 1, params={KEY: [1]}),
    )
    assert engine.admit_all() == ["short", "long"]


@pytest.mark.parametrize("where", ["present", "clock", "read"])
def test_a_fault_of_ours_leaves_vllms_own_order_and_is_logged_once(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a fault of ours")

    engine = Engine()
    if where == "present":
        monkeypatch.setattr(engine.cache, "present", broken)
    elif where == "clock":
        monkeypatch.setattr(engine.queue, "_clock", broken)
    else:
        monkeypatch.setattr(agent_queue, "read", broken)
    engine.add(request("a", 9), request("b", 1), request("c", 5))
    assert engine.admit_all() == ["a", "b", "c"]
    engine.add(request("d", 2), request("e", 1))
    assert engine.admit_all() == ["d", "e"]
    assert [record.getMessage() for record in caplog.records] == [
        "ordering the queue failed; requests are admitted in vLLM's own order from here on"
    ]


def test_nothing_is_kept_of_requests_that_are_gone() -> None:
    engine = Engine().add(*(request(str(n)) for n in range(50)))
    engine.admit_all()
    engine.running.clear()
    assert len(engine.queue._known) == 0


class AnyUse(RuleBasedStateMachine):
    """Whatever the scheduler does with the queue, it holds what vLLM's own would hold."""

    policy = SchedulingPolicy.FCFS

    def __init__(self) -> None:
        super().__init__()
        self.engine = Engine(self.policy, aging_s=5.0, short_tokens=8)
        self.theirs = create_request_queue(self.policy)
        self.out: list[Request] = []
        self.made = 0

    @rule(
        tokens=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        priority=st.integers(-1, 1),
        params=st.sampled_from(
            [None, {}, {KEY: 1}, hinted(fork="f"), hinted(fork="g", priority=80), hinted()]
        ),
        preempted=st.booleans(),
    )
    def add(self, tokens: list[int], priority: int, params: Any, preempted: bool) -> None:
        self.made += 1
        made = request(str(self.made), tokens, priority=priority, params=params, arrival=self.made)
        for queue in (self.engine.queue, self.theirs):
            if preempted:
                made.status = RequestStatus.PREEMPTED
                queue.prepend_request(made)
            else:
                queue.add_request(made)

    @rule(admit=st.booleans(), decodes=st.booleans())
    def take_out(self, admit: bool, decodes: bool) -> None:
        offers = bool(self.engine.queue)
        if not offers:
            with pytest.raises(IndexError):
                self.engine.queue.pop_request()
            return
        head = self.engine.queue.peek_request()
        assert self.engine.queue.pop_request() is head
        self.theirs.remove_request(head)
        if admit:
            head.status = RequestStatus.RUNNING
            self.engine.running.append(head)
            self.engine.cache.blocks.update(head.block_hashes)
            if decodes:
                head.append_output_token_ids(1)
        else:
            self.out.append(head)

    @precondition(lambda self: self.out)
    @rule()
    def put_skipped_back(self) -> None:
        for queue in (self.engine.queue, self.theirs):
            queue.prepend_requests(self.out)
        self.out = []

    @precondition(lambda self: len(self.theirs) > 0)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(list(self.theirs)))
        one_by_one = data.draw(st.booleans())
        for queue in (self.engine.queue, self.theirs):
            if one_by_one:
                queue.remove_request(gone)
            else:
                queue.remove_requests({gone, request("not here")})

    @rule(seconds=st.floats(0, 6), finish=st.booleans(), evict=st.booleans())
    def next_step(self, seconds: float, finish: bool, evict: bool) -> None:
        self.engine.now += seconds
        self.engine.step += 1
        if finish:
            self.engine.running.clear()
        if evict:
            self.engine.cache.blocks.clear()

    @invariant()
    def holds_the_same(self) -> None:
        assert list(self.engine.queue) == list(self.theirs)
        assert len(self.engine.queue) == len(self.theirs)
        assert not self.engine.queue._faulty

    @invariant()
    def somebody_is_offered_unless_a_branch_runs(self) -> None:
        if not self.engine.running:
            assert bool(self.engine.queue) == bool(len(self.theirs))


class AnyUseByPriority(AnyUse):
    policy = SchedulingPolicy.PRIORITY


SHORT = settings(max_examples=40, stateful_step_count=30)
TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = SHORT
TestAnyUseByPriority = AnyUseByPriority.TestCase
TestAnyUseByPriority.settings = SHORT


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 30)), max_size=30))
def test_under_priority_no_request_overtakes_a_more_important_one(asked: list[tuple[int, int]]) -> None:
    engine = Engine(SchedulingPolicy.PRIORITY)
    engine.add(*(request(str(n), size, priority=p, arrival=n) for n, (p, size) in enumerate(asked)))
    priorities = [asked[int(name)][0] for name in engine.admit_all()]
    assert priorities == sorted(priorities)


def test_the_kinds_of_queue_are_vllms() -> None:
    assert isinstance(Engine().inner, FCFSRequestQueue)
    assert isinstance(Engine(SchedulingPolicy.PRIORITY).inner, PriorityRequestQueue)
