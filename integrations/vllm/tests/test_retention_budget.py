"""The share of a real engine's device that estimates may keep, by what the next prompt finds cached."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.connectors import agent_connector
from harness.hinted import asked, directed
from harness.in_process import InProcessEngine, in_process
from tests.test_agent_connector import BLOCK, CAPACITY, context, flood, run, soon

SHARE = 0.2
BUDGET = int(SHARE * CAPACITY / BLOCK) * BLOCK
"""In tokens: 31 blocks."""


@pytest.fixture(scope="module")
def running(tiny_model: Path) -> Iterator[InProcessEngine]:
    with in_process(tiny_model, kv_transfer_config=agent_connector(retention_budget=SHARE)) as engine:
        yield engine


@pytest.fixture
def engine(running: InProcessEngine) -> InProcessEngine:
    assert running.llm.reset_prefix_cache()
    return running


def test_a_context_longer_than_the_budget_is_clipped(engine: InProcessEngine) -> None:
    assert asked(engine, "kv")["budget"] == BUDGET
    assert len(run(engine, context("large")).prompt) > BUDGET
    assert len(run(engine, context("small", 120)).prompt) < BUDGET
    large, small = directed(engine, soon(context("large")), soon(context("small", 120)))
    assert large["outcome"]["outcome"] == "clipped"
    assert large["outcome"]["tokens"] == BUDGET
    assert small["outcome"]["outcome"] == "applied"


def test_of_many_retained_contexts_no_more_than_the_budget_survives_a_flood(engine: InProcessEngine) -> None:
    names = [f"n{at}" for at in range(8)]
    each = {len(run(engine, context(name, 120)).prompt) // BLOCK * BLOCK for name in names}
    answers = directed(engine, *(soon(context(name, 120)) for name in names))
    # Each estimate counts; what they can keep together is another matter.
    assert {answer["outcome"]["outcome"] for answer in answers} == {"applied"}
    assert asked(engine, "kv")["retained"][""] == len(names) * max(each) > 2 * BUDGET
    run(engine, context("nobody's", 120))
    flood(engine, 2 * CAPACITY)
    assert run(engine, context("nobody's", 120)).cached_tokens == 0
    kept = sum(run(engine, context(name, 120)).cached_tokens for name in names)
    assert BUDGET - max(each) < kept <= BUDGET
