"""The embedded engine counts cached tokens as vLLM does, request by request, on recorded workloads."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.in_process import InProcessEngine, in_process
from harness.recorded_workloads import Call, Workload, coding_sessions, conversations, programs
from llmd_agents.engine import (
    EngineCore,
    EngineProfile,
    EngineRequest,
    Evicted,
    Record,
    cache_root,
    load_profile,
)

pytestmark = pytest.mark.timeout(900)

BLOCKS = 132
LONGEST = 4096


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[InProcessEngine]:
    with in_process(tiny_model, num_blocks=BLOCKS, max_model_len=LONGEST) as running:
        yield running


def recorded(name: str, traces: Path, engine: InProcessEngine) -> Workload:
    def coding(*numbers: str) -> list[Path]:
        return [traces / "claude-code" / f"trace_{number}.json" for number in numbers]

    match name:
        case "a long coding session":
            return coding_sessions(coding("0267"), 260, block_tokens=1)
        case "two coding sessions with subagents":
            return coding_sessions(coding("0254", "0003"), 260, block_tokens=1)
        case "eight coding sessions":
            numbers = ("0055", "0086", "0094", "0118", "0254", "0274", "0295", "0722")
            return coding_sessions(coding(*numbers), 300, block_tokens=1)
        case "forty conversations":
            return conversations(traces / "mooncake" / "conversation_trace.jsonl", 40, block_tokens=8)
        case "three programs":
            names = ("code_review_workflow", "fan_in_dependencies", "parallel_requests")
            return programs([traces / "otel" / f"{name}.json" for name in names], 4, 0.25, engine.tokens)
    raise AssertionError(name)


class Model:
    """The embedded engine, with vLLM's order of eviction and one request at a time."""

    def __init__(self, num_blocks: int, budget: int) -> None:
        self.evictions = 0
        self._count = 0
        self._now = 0.0
        profile: EngineProfile = dataclasses.replace(
            load_profile("tiny"),
            block_size=32,
            num_blocks=num_blocks,
            max_model_len=LONGEST,
            max_num_batched_tokens=budget,
        )
        self._core = EngineCore(profile, eviction="lru", listener=self._listen)

    def _listen(self, record: Record) -> None:
        self.evictions += isinstance(record, Evicted)

    def cached_tokens(self, prompt: tuple[int, ...], reply: tuple[int, ...]) -> int:
        self._count += 1
        request = EngineRequest(
            id=f"r{self._count}", prompt=_bytes(prompt), output=_bytes(reply), root=cache_root("tiny")
        )
        self._core.add(request, self._now)
        while True:
            step = self._core.step(self._now)
            self._now += step.duration_s
            for stats in step.finished:
                return stats.cached_tokens


def _bytes(tokens: tuple[int, ...]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


@pytest.mark.parametrize(
    "name",
    [
        "a long coding session",
        "two coding sessions with subagents",
        "eight coding sessions",
        "forty conversations",
        "three programs",
    ],
)
def test_the_same_cached_tokens_request_by_request(name: str, traces: Path, engine: InProcessEngine) -> None:
    workload = recorded(name, traces, engine)
    assert engine.llm.reset_prefix_cache()
    budget = engine.scheduler.max_num_scheduled_tokens
    model, larger = Model(BLOCKS, budget), Model(BLOCKS + 4, budget)
    real, modelled, otherwise, endless = [], [], [], []
    seen: set[tuple[int, ...]] = set()
    call: Call | None = next(workload)
    while call is not None:
        answer = engine.generate(call.prompt, max_tokens=call.reply_tokens)
        real.append(answer.cached_tokens)
        modelled.append(model.cached_tokens(call.prompt, answer.output))
        otherwise.append(larger.cached_tokens(call.prompt, answer.output))
        endless.append(_hits(seen, call.prompt, answer.output))
        call = _next(workload, answer.output)
    assert modelled == real
    # The cache is so small that what it gives up, and when, decides what the next request finds.
    assert model.evictions > 2 * BLOCKS
    assert 0 < sum(real) < sum(endless)
    assert otherwise != real


def _next(workload: Workload, reply: tuple[int, ...]) -> Call | None:
    try:
        return workload.send(reply)
    except StopIteration:
        return None


def _hits(seen: set[tuple[int, ...]], prompt: tuple[int, ...], reply: tuple[int, ...]) -> int:
    """Returns what an endless cache would have of the prompt, and notes what it then has."""
    ends = range(32, len(prompt), 32)
    hit = 0
    for end in ends:
        if prompt[:end] not in seen:
            break
        hit = end
    # The last token of the reply is never computed.
    known = prompt + reply[:-1]
    seen.update(known[:end] for end in range(32, len(known) + 1, 32))
    return hit
