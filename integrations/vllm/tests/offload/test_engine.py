"""A real engine whose host tier follows hints."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.in_process import InProcessEngine, in_process
from llmd_agents.hints import Forecast, Hints, Program, Step, encode_hints
from llmd_agents_vllm.offload.policy import AgentOffloadPolicy, policy_of_process

from .stories import END, SOON, Clock, ticking

BLOCK = 32
CHUNKS = 8
"""Of one prompt."""

TIER_CHUNKS = 4 * CHUNKS
CHUNK_BYTES = 32768
"""Of the tiny model's blocks, with the padding to a page."""


def prompt(name: int, chunks: int = CHUNKS) -> list[int]:
    """Token ids that share no beginning with another name's; the last token is always computed."""
    return [3 + (name * 131 + index * 7 + index * index * name) % 200 for index in range(chunks * BLOCK + 1)]


def hinted(program: str, forecast: Mapping[str, Any]) -> dict[str, Any]:
    hints = Hints(
        program=Program(id=program), step=Step(id="s"), forecast=Forecast.model_validate(dict(forecast))
    )
    return {"llmd_agents": {"v": 1, "chain": [], "header": encode_hints(hints)}}


class Host:
    """An engine, its host tier, and the policy's clock."""

    def __init__(self, engine: InProcessEngine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock

    @property
    def policy(self) -> AgentOffloadPolicy:
        policy = policy_of_process()
        assert policy is not None
        return policy

    def forget(self) -> None:
        """Empties the device's cache and the host tier."""
        assert self.engine.llm.reset_prefix_cache(reset_connector=True)

    def ask(self, tokens: Sequence[int], params: Mapping[str, Any] | None = None) -> tuple[int, ...]:
        """Returns the output of a request that finds nothing on the device."""
        self.clock.now += self.clock.step
        assert self.engine.llm.reset_prefix_cache()
        return self.engine.generate(list(tokens), kv_transfer_params=params).output

    def sources(self, tokens: Sequence[int]) -> dict[str, int]:
        """Returns how many tokens of a request were not computed, by where they came from."""
        before = self.engine.counters()
        self.ask(tokens)
        return dict((self.engine.counters() - before).cached_by_source)


def started(model: Path, extra_config: Mapping[str, Any]) -> Iterator[Host]:
    config = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "AgentOffloadSpec",
            "spec_module_path": "llmd_agents_vllm.offload.spec",
            "cpu_bytes_to_use": TIER_CHUNKS * CHUNK_BYTES,
            "retention_budget": 1.0,
            **extra_config,
        },
    }
    with (
        ticking() as clock,
        in_process(model, num_blocks=64, max_model_len=1024, kv_transfer_config=config) as engine,
    ):
        yield Host(engine, clock)


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> Iterator[Host]:
    yield from started(tiny_model, {})


@pytest.fixture(scope="module")
def before_files(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    files = tmp_path_factory.mktemp("files")
    yield from started(tiny_model, {"secondary_tiers": [{"type": "fs", "root_dir": str(files)}]})


def test_what_is_needed_soon_outlives_a_flood(alone: Host) -> None:
    alone.forget()
    assert alone.policy.cache_capacity == TIER_CHUNKS
    first = alone.ask(prompt(1), hinted("soon", SOON))
    alone.ask(prompt(2))
    alone.ask(prompt(3))
    alone.ask(prompt(4))
    alone.ask(prompt(5))
    assert alone.sources(prompt(1)) == {"host": CHUNKS * BLOCK}
    assert alone.ask(prompt(1)) == first
    assert alone.sources(prompt(2)) == {}


def test_without_hints_it_does_not(alone: Host) -> None:
    alone.forget()
    for name in (1, 2, 3, 4, 5):
        alone.ask(prompt(name))
    assert alone.sources(prompt(1)) == {}
    assert alone.sources(prompt(3)) == {"host": CHUNKS * BLOCK}


def test_an_ended_program_goes_first(alone: Host) -> None:
    alone.forget()
    alone.ask(prompt(1))
    alone.ask(prompt(2))
    alone.ask(prompt(3), hinted("over", END))
    # vLLM tells of a request's end with the next step, once that step's blocks have found their room.
    alone.ask(prompt(4))
    alone.ask(prompt(5))
    assert alone.sources(prompt(3)) == {}
    # Which has just taken the place of the oldest.
    assert alone.sources(prompt(2)) == {"host": CHUNKS * BLOCK}


def test_with_everything_retained_a_prompt_as_long_as_the_tier_runs_and_is_stored(alone: Host) -> None:
    alone.forget()
    for name in (1, 2, 3, 4):
        alone.ask(prompt(name), hinted(f"p{name}", SOON))
    long = prompt(6, TIER_CHUNKS - 1)
    output = alone.ask(long)
    assert len(output) == 8
    assert alone.sources(long) == {"host": (TIER_CHUNKS - 1) * BLOCK}
    assert alone.ask(long) == output


def test_bad_hints_change_no_answer(alone: Host) -> None:
    alone.forget()
    plain = alone.ask(prompt(1))
    for value in (5, {}, {"v": 1, "header": "\x00", "chain": [[]]}, {"v": 1, "header": "a" * 3000}):
        assert alone.ask(prompt(1), {"llmd_agents": value}) == plain


def test_what_the_host_tier_gives_up_comes_back_from_files(before_files: Host) -> None:
    before_files.ask(prompt(1), hinted("soon", SOON))
    second = before_files.ask(prompt(2))
    for name in (3, 4, 5):
        before_files.ask(prompt(name))
    assert before_files.sources(prompt(1)) == {"host": CHUNKS * BLOCK}
    assert before_files.sources(prompt(2)) == {"disk": CHUNKS * BLOCK}
    assert before_files.ask(prompt(2)) == second


def test_with_everything_retained_files_are_still_read(before_files: Host) -> None:
    before_files.forget()
    output = before_files.ask(prompt(7))
    for name in (11, 12, 13, 14):
        before_files.ask(prompt(name), hinted(f"p{name}", SOON))
    assert before_files.sources(prompt(7)) == {"disk": CHUNKS * BLOCK}
    assert before_files.ask(prompt(7)) == output
