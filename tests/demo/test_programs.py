"""The demo's programs in virtual time, alone on the fleet: their graphs, and what they send."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from llmd_agents.bench.fleet_client import events_reach, fleet_client
from llmd_agents.bench.simulated_fleet import SimulatedFleet
from llmd_agents.bench.virtual_time import run
from llmd_agents.demo.arms import ARMS
from llmd_agents.demo.programs import PROGRAMS, load_program
from llmd_agents.demo.scenario import read_scenario
from llmd_agents.runtime import DEFAULT_TENANT, program_view


async def graph(name: str) -> dict[str, Any]:
    scenario, arm = read_scenario(), ARMS["hinted"]
    profile = scenario.fleet.engine_profile()
    names = ["a", "b", "c"]
    fleet = SimulatedFleet(arm.runtime(names), {one: arm.core(profile, 10) for one in names})
    fleet.start()
    with events_reach(fleet):
        async with fleet_client(fleet, hints=True) as client:
            said = await load_program(name)(client, seed=3, program_id="p")
    await asyncio.sleep(1)
    record = fleet.runtime.program(DEFAULT_TENANT, "p")
    assert record is not None
    view = program_view(fleet.runtime, DEFAULT_TENANT, record)
    fleet.stop()
    assert said
    assert view["status"] == "ok"
    assert all(step["status"] == "finished" for step in view["steps"])
    return view


def edges(view: dict[str, Any]) -> Counter[str]:
    """Returns how many edges lead to each step."""
    return Counter(later for _, later in view["edges"])


def tokens(view: dict[str, Any], step: int) -> tuple[int, int]:
    found = view["steps"][step]
    return found["prompt_tokens"], found["output_tokens"]


def test_tree_of_thought() -> None:
    view = run(graph("tree-of-thought"))
    kinds = Counter(step["kind"] for step in view["steps"])
    assert kinds == {"plan": 1, "reason": 10, "evaluate": 1, "synthesize": 1}
    assert [(fork["name"], fork["width"], fork["joined"]) for fork in view["forks"]] == [
        ("think", 8, True),
        ("expand", 2, True),
    ]
    assert edges(view) == {**{f"s{n}": 1 for n in range(2, 10)}, "s10": 8, "s11": 1, "s12": 1, "s13": 2}
    assert tokens(view, 0)[0] == pytest.approx(30_000, abs=60)
    assert [tokens(view, step)[1] for step in (1, 10)] == [400, 600]


def test_react() -> None:
    view = run(graph("react"))
    assert len(view["steps"]) == 13
    assert len(view["tools"]) == 12
    assert [step["loop"] and step["loop"]["iteration"] for step in view["steps"]] == [*range(12), None]
    assert tokens(view, 0)[0] == pytest.approx(10_000, abs=500)
    assert tokens(view, 0)[1] == 150
    assert all(count == 1 for count in edges(view).values())
    durations = sorted(tool["finished_at"] - tool["started_at"] for tool in view["tools"])
    assert 2 < durations[6] < 7


def test_swarm() -> None:
    view = run(graph("swarm"))
    assert len(view["steps"]) == 52
    (fork,) = view["forks"]
    assert (fork["width"], len(fork["branches"]), fork["joined"]) == (50, 50, True)
    assert edges(view)["s52"] == 50
    assert tokens(view, 1)[0] == pytest.approx(31_300, abs=60)
    assert tokens(view, 1)[1] == 250


def test_pipeline() -> None:
    view = run(graph("pipeline"))
    agents = [step["agent"] for step in view["steps"]]
    assert agents == ["researcher"] * 5 + ["analyst"] * 4 + ["writer", "researcher", "writer"]
    assert Counter(tool["tool"] for tool in view["tools"]) == {"fetch": 4, "run_model": 3}
    heads = [tokens(view, step)[0] for step in (0, 5, 9)]
    assert heads == [pytest.approx(size, rel=0.25) for size in (6000, 8700, 7300)]
    # Asked again, the researcher finds its context where it was.
    critique = view["steps"][10]
    assert critique["cached_tokens"] > 0.9 * view["steps"][4]["prompt_tokens"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_take_the_same_course_every_time(name: str) -> None:
    assert run(graph(name)) == run(graph(name))
