"""Real recorded sessions through client, router and engines; what engines count against what they should."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmd_agents.bench import CodingSession, read_coding_session
from llmd_agents.demo.replay import ReplayOptions, ReplayReport, replay
from llmd_agents.engine import EngineServer, Preempted, Record
from tests.stack.block_lru import BlockLru
from tests.stack.servers import small_profile, stack

pytestmark = pytest.mark.timeout(300)

SPEED = 20_000.0


def prefix_tree_hits(sessions: Sequence[CodingSession]) -> int:
    """Returns the tokens that an endless cache would serve, were the calls made in the files' order."""
    hits = 0
    for session in sessions:
        seen: set[int] = set()
        for turn in session.turns():
            for block in turn.blocks:
                if block not in seen:
                    break
                hits += session.block_size
            seen.update(turn.blocks)
    return hits


def play(
    sessions: Sequence[CodingSession], *, engines: int, cache_blocks: int, hints: bool = True
) -> tuple[ReplayReport, list[list[Record]]]:
    """Replays on engines of `cache_blocks` blocks; returns the report and each engine's records."""
    records: list[list[Record]] = [[] for _ in range(engines)]
    longest = max(turn.input_tokens + turn.output_tokens for s in sessions for turn in s.turns())
    profile = small_profile(
        block_size=64, num_blocks=cache_blocks + 1, max_model_len=longest, max_num_batched_tokens=8192
    )
    servers = [EngineServer(profile, time_scale=SPEED, listener=record.append) for record in records]
    # Directives would change what is evicted, and calls that move would copy.
    with stack(servers, mode="observe") as running:
        options = ReplayOptions(speed=SPEED, hints=hints)
        report = asyncio.run(replay(sessions, running.router, running.engines, options))
    return report, records


def agree(report: ReplayReport, records: list[list[Record]], cache_blocks: int) -> list[BlockLru]:
    """Checks each engine's counters against the LRU fed with its order of requests."""
    references = []
    for engine, record in zip(report.engines, records, strict=True):
        reference = BlockLru(cache_blocks, 64)
        for one in record:
            reference.take(one)
        assert engine.requests == len(reference.cached_tokens)
        assert engine.prompt_tokens == sum(reference.prompt_tokens.values())
        assert engine.cached_tokens == sum(reference.cached_tokens.values())
        references.append(reference)
    return references


def read(folder: Path, *numbers: str) -> list[CodingSession]:
    return [read_coding_session(folder / f"trace_{number}.json") for number in numbers]


def test_the_command_on_a_whole_session(coding_sessions: Path) -> None:
    path = coding_sessions / "trace_0003.json"
    command = [sys.executable, "-m", "llmd_agents", "replay", str(path)]
    command += ["--engines", "2", "--speed", "5000", "--json"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=240)
    result = json.loads(done.stdout)
    session = read_coding_session(path)
    assert result["requests"] == 409
    assert result["failed"] == 0
    assert result["prompt_tokens"] == sum(turn.input_tokens for turn in session.turns()) == 47_994_684
    assert result["cached_tokens"] == pytest.approx(prefix_tree_hits([session]), rel=0.01)
    assert (result["steps"], result["edges"], result["branches"]) == (409, 408, 3)
    assert len(result["engines"]) == 2
    for name in ("requests", "prompt_tokens", "cached_tokens"):
        assert sum(engine[name] for engine in result["engines"]) == result[name]


@pytest.mark.parametrize(
    ("number", "engines", "hints"), [("0003", 1, True), ("0254", 2, True), ("0254", 2, False)]
)
def test_engines_that_hold_a_quarter_of_the_session(
    coding_sessions: Path, number: str, engines: int, hints: bool
) -> None:
    sessions = read(coding_sessions, number)
    unique = {block for turn in sessions[0].turns() for block in turn.blocks}
    cache_blocks = len(unique) // 4
    report, records = play(sessions, engines=engines, cache_blocks=cache_blocks, hints=hints)
    assert report.failed == 0, report.first_error
    assert report.disagreement() is None
    assert report.steps == (len(sessions[0].turns()) if hints else 0)
    assert sum(reference.evictions for reference in agree(report, records, cache_blocks)) > 1000


@pytest.mark.parametrize("engines", [1, 2, 4])
def test_four_sessions_at_once(coding_sessions: Path, engines: int) -> None:
    sessions = read(coding_sessions, "0055", "0254", "0274", "0295")
    cache_blocks = 6_000
    report, records = play(sessions, engines=engines, cache_blocks=cache_blocks)
    assert report.failed == 0, report.first_error
    assert report.disagreement() is None
    turns = [turn for session in sessions for turn in session.turns()]
    assert report.requests == report.steps == len(turns)
    assert sum(engine.prompt_tokens for engine in report.engines) == sum(t.input_tokens for t in turns)
    assert report.branches == 4 + sum(len(e) for s in sessions for e in s.events if isinstance(e, tuple))
    references = agree(report, records, cache_blocks)
    assert all(engine.requests > 0 for engine in report.engines)
    assert sum(reference.evictions for reference in references) > 1000
    preempted = sum(isinstance(one, Preempted) for record in records for one in record)
    assert preempted < len(turns)
