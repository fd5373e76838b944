"""vLLM's own engine with our scheduler: who finishes when, and that all do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.in_process import InProcessEngine, in_process
from llmd_agents.hints import ForkPosition, Hints, Program, Step, encode_hints
from llmd_agents_vllm.agent_queue import AgentQueue
from llmd_agents_vllm.carried import KEY
from llmd_agents_vllm.options import BadOptions
from llmd_agents_vllm.queue_order import QueueRule
from llmd_agents_vllm.scheduler import AgentScheduler, AsyncAgentScheduler, rule_of
from llmd_agents_vllm.startup_check import MODE_VARIABLE

NAME = "llmd_agents_vllm.scheduler.AgentScheduler"
BLOCK = 32


def hinted(program: str, *, priority: int = 50, fork: tuple[str, int, int] | None = None) -> dict[str, Any]:
    position = None if fork is None else ForkPosition(id=fork[0], index=fork[1], width=fork[2])
    hints = Hints(program=Program(id=program, priority=priority), step=Step(id="s", fork=position))
    return {KEY: {"v": 1, "header": encode_hints(hints)}}


def tokens(seed: int, count: int) -> list[int]:
    """Returns a prompt that shares no block with those of other seeds."""
    return [3 + (seed * 7919 + index * 31 + index * index) % 200 for index in range(count)]


class Run:
    """One run of an engine: requests are added, then it steps until all have finished."""

    def __init__(self, engine: InProcessEngine) -> None:
        self.engine = engine
        self.finished: list[str] = []

    def add(
        self,
        name: str,
        prompt: Sequence[int],
        *,
        params: Mapping[str, Any] | None = None,
        priority: int = 0,
        max_tokens: int = 2,
    ) -> None:
        from vllm import SamplingParams, TokensPrompt

        extra = None if params is None else {"kv_transfer_params": dict(params)}
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, extra_args=extra)
        self.engine.llm.llm_engine.add_request(
            name, TokensPrompt(prompt_token_ids=list(prompt)), sampling, priority=priority
        )

    def step(self) -> None:
        outputs = self.engine.llm.llm_engine.step()
        self.finished += [output.request_id for output in outputs if output.finished]

    def to_the_end(self) -> list[str]:
        while self.engine.llm.llm_engine.has_unfinished_requests():
            self.step()
        return self.finished


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def clock_of(engine: InProcessEngine) -> Iterator[Clock]:
    queue = engine.scheduler.waiting
    real, queue._clock = queue._clock, Clock()
    try:
        yield queue._clock
    finally:
        queue._clock = real


@pytest.fixture(scope="module")
def one_at_a_time(tiny_model: Path) -> Iterator[InProcessEngine]:
    with in_process(
        tiny_model,
        scheduler_cls=NAME,
        max_num_seqs=1,
        additional_config={"llmd_agents": {"aging_s": 30}},
    ) as engine:
        yield engine


@pytest.fixture
def run(one_at_a_time: InProcessEngine) -> Run:
    one_at_a_time.llm.reset_prefix_cache()
    return Run(one_at_a_time)


def test_the_name_in_the_flag_gives_the_synchronous_scheduler_on_the_cpu(
    one_at_a_time: InProcessEngine,
) -> None:
    scheduler = one_at_a_time.scheduler
    assert type(scheduler) is AgentScheduler
    assert isinstance(scheduler.waiting, AgentQueue)
    assert scheduler.waiting._rule == QueueRule(aging_s=30.0)


def test_what_is_cached_goes_first(run: Run) -> None:
    run.add("warm", tokens(1, 640))
    run.to_the_end()
    run.add("long", tokens(2, 300))
    run.add("short", tokens(3, 100))
    run.add("cached", tokens(1, 640) + tokens(4, 20))
    assert run.to_the_end() == ["warm", "cached", "short", "long"]


def test_looking_counts_neither_as_query_nor_as_use(run: Run) -> None:
    cache = run.engine.scheduler.kv_cache_manager
    run.add("warm", tokens(1, 640))
    run.to_the_end()
    cache.make_prefix_cache_stats()
    free = [block.block_id for block in cache.block_pool.free_block_queue.get_all_free_blocks()]
    run.add("again", tokens(1, 640))
    assert run.engine.scheduler.waiting.peek_request().num_tokens == 640
    assert run.engine.scheduler.waiting._known
    assert [block.block_id for block in cache.block_pool.free_block_queue.get_all_free_blocks()] == free
    assert cache.make_prefix_cache_stats().requests == 0
    run.to_the_end()


def test_siblings_follow_the_first_that_brings_their_prefix(run: Run) -> None:
    shared = tokens(1, 320)
    for index in range(3):
        run.add(f"child-{index}", shared + tokens(10 + index, 40))
    run.add("other", tokens(2, 350))
    assert run.to_the_end() == ["other", "child-0", "child-1", "child-2"]
    run.engine.llm.reset_prefix_cache()
    run.finished.clear()
    for index in range(3):
        run.add(f"child-{index}", shared + tokens(10 + index, 40))
    run.add("other", tokens(2, 365))
    assert run.to_the_end() == ["child-0", "child-1", "child-2", "other"]


def test_priorities_of_programs(run: Run) -> None:
    run.add("plain", tokens(1, 40))
    run.add("minor", tokens(2, 30), params=hinted("m", priority=10))
    run.add("major", tokens(3, 300), params=hinted("n", priority=90))
    assert run.to_the_end() == ["major", "plain", "minor"]


def test_the_fork_nearest_to_its_join_goes_first(run: Run) -> None:
    for index in range(3):
        run.add(f"wide-{index}", tokens(index, 60), params=hinted("w", fork=("f", index, 3)))
    for index in range(2):
        run.add(f"narrow-{index}", tokens(9 + index, 60), params=hinted("n", fork=("g", index, 2)))
    assert run.to_the_end() == ["narrow-0", "narrow-1", "wide-0", "wide-1", "wide-2"]


def test_hostile_hints_change_nothing(run: Run) -> None:
    for name, params in (("a", {KEY: {"v": 1, "header": "\ud800("}}), ("b", {KEY: []}), ("c", {KEY: None})):
        run.add(name, tokens(ord(name), 50), params=params)
    assert run.to_the_end() == ["a", "b", "c"]


def test_the_aging_bound_holds(run: Run) -> None:
    with clock_of(run.engine) as clock:
        run.add("long", tokens(1, 600))
        # Somebody shorter arrives every two seconds, and is served for as long.
        for index in range(20):
            run.add(f"short-{index}", tokens(2 + index, 40))
            for _ in range(2):
                clock.now += 1.0
                run.step()
        run.to_the_end()
    assert run.finished.index("long") == 15
    assert len(run.finished) == 21


def test_aborted_requests_leave_the_queue(run: Run) -> None:
    for index in range(6):
        run.add(str(index), tokens(index, 50))
    run.step()
    run.engine.llm.llm_engine.abort_request(["2", "4"])
    assert sorted(run.to_the_end()) == ["0", "1", "3", "5"]
    assert len(run.engine.scheduler.waiting) == 0


def test_a_fault_of_ours_is_logged_once_and_all_requests_finish(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = run.engine.scheduler.waiting
    monkeypatch.setattr(queue, "_clock", lambda: 1 / 0)
    monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
    run.add("long", tokens(1, 300))
    run.add("short", tokens(2, 40))
    assert run.to_the_end() == ["long", "short"]
    assert queue._faulty
    monkeypatch.setattr(queue, "_faulty", False)


@contextmanager
def crowded(tiny_model: Path, scheduler: str, **options: Any) -> Iterator[InProcessEngine]:
    """An engine with so few blocks that requests are preempted."""
    with in_process(
        tiny_model, num_blocks=40, max_model_len=1024, scheduler_cls=scheduler, max_num_seqs=16, **options
    ) as engine:
        yield engine


@pytest.mark.parametrize(
    ("scheduler", "kind", "policy"),
    [
        (NAME, AgentScheduler, "fcfs"),
        ("llmd_agents_vllm.scheduler.AsyncAgentScheduler", AsyncAgentScheduler, "priority"),
    ],
)
def test_two_hundred_requests_all_finish(tiny_model: Path, scheduler: str, kind: Any, policy: str) -> None:
    with crowded(tiny_model, scheduler, scheduling_policy=policy) as engine:
        assert type(engine.scheduler) is kind
        run = Run(engine)
        preempted = 0
        for index in range(200):
            fork = (f"f{index // 8}", index % 8, 8) if index % 2 else None
            run.add(
                str(index),
                tokens(index // 8, 64) + tokens(1000 + index, 10 + index % 90),
                params=hinted(f"p{index // 8}", priority=index % 100, fork=fork) if index % 3 else None,
                priority=index % 3 if policy == "priority" else 0,
                max_tokens=8 + index % 56,
            )
            if index % 2:
                run.step()
                preempted += sum(one.num_preemptions for one in engine.scheduler.waiting)
        assert sorted(run.to_the_end(), key=int) == [str(index) for index in range(200)]
        assert preempted > 0
        assert not engine.scheduler.waiting._faulty
        assert len(engine.scheduler.waiting) == len(engine.scheduler.requests) == 0


def test_asynchronous_scheduling_takes_the_other_base_class() -> None:
    def config(asynchronous: bool) -> Any:
        return SimpleNamespace(scheduler_config=SimpleNamespace(async_scheduling=asynchronous))

    assert type(AgentScheduler.__new__(AgentScheduler, config(True))) is AsyncAgentScheduler
    assert type(AgentScheduler.__new__(AgentScheduler, config(False))) is AgentScheduler
    assert type(AsyncAgentScheduler.__new__(AsyncAgentScheduler, config(False))) is AsyncAgentScheduler


def test_options_of_the_operator() -> None:
    def rule(additional: Any) -> QueueRule:
        return rule_of(SimpleNamespace(additional_config=additional))

    assert rule({}) == rule({"other": 1}) == rule(object()) == QueueRule()
    assert rule({"llmd_agents": {"aging_s": 3, "short_tokens": 512}}) == QueueRule(
        aging_s=3, short_tokens=512
    )
    with pytest.raises(BadOptions, match=r"aging: .* \(got 3; options: aging_s, short_tokens\)"):
        rule({"llmd_agents": {"aging": 3}})


def test_without_what_it_needs_of_vllm_the_queue_stays_vllms(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.sched.request_queue import FCFSRequestQueue

    from llmd_agents_vllm import startup_check

    monkeypatch.delenv(MODE_VARIABLE, raising=False)
    needs = {**startup_check.NEEDS, startup_check.Part.SCHEDULER: (startup_check.Has("vllm:gone"),)}
    monkeypatch.setattr(startup_check, "NEEDS", needs)
    with in_process(tiny_model, scheduler_cls=NAME, max_num_seqs=1) as engine:
        assert type(engine.scheduler.waiting) is FCFSRequestQueue
        run = Run(engine)
        run.add("long", tokens(1, 300), params=hinted("p"))
        run.add("short", tokens(2, 40))
        assert run.to_the_end() == ["long", "short"]
