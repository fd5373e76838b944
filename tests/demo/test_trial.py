"""Trials on a small scenario: the same every time, whether a program is run alone or in a fork."""

import multiprocessing
from typing import Any

import pytest

from llmd_agents.demo.arms import ARMS
from llmd_agents.demo.demo_command import run_demo
from llmd_agents.demo.report import print_report
from llmd_agents.demo.results import as_json
from llmd_agents.demo.scenario import Scenario, read_scenario
from llmd_agents.demo.trial import Outcome, Trial, run_trial


def small() -> Scenario:
    """The packaged scenario with a fifth of the cache and a short time to fill it."""
    data = read_scenario().model_dump()
    data["warm_up_s"] = 60.0
    data["fleet"] |= {"device_tokens": 60_000, "host_tokens": 30_000}
    return Scenario.model_validate(data)


PROGRAMS = ("tree-of-thought", "react")


@pytest.mark.parametrize("arm", ["strongest_unhinted", "hinted"])
def test_a_trial_gives_the_same_to_the_last_digit(arm: str) -> None:
    together = run_trial(small(), Trial(arm, 1.5, 1, PROGRAMS))
    alone = {name: run_trial(small(), Trial(arm, 1.5, 1, (name,)))[name] for name in PROGRAMS}
    assert together == alone
    assert all(outcome.live_pressure > 0 for outcome in together.values())
    assert run_trial(small(), Trial(arm, 1.5, 2, ("react",))) != {"react": alone["react"]}


def spawned(trial: Trial) -> dict[str, Outcome]:
    return run_trial(small(), trial)


def test_another_process_gives_the_same() -> None:
    trial = Trial("hinted", 1.5, 1, ("tree-of-thought",))
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # with other hashes of strings
        assert pool.apply(spawned, (trial,)) == run_trial(small(), trial)


def test_a_fork_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="without an outcome"):
        run_trial(small(), Trial("hinted", 0, 1, ("react", "no such program")))
    assert "KeyError: 'no such program'" in capfd.readouterr().err


def test_the_whole_command_on_a_small_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    rows = run_demo(small(), PROGRAMS, (0.5,), 2)
    value: Any = as_json(rows, small())
    assert [(item["name"], item["pressure"], item["seeds"]) for item in value["programs"]] == [
        (name, pressure, 2) for pressure in (0.5,) for name in PROGRAMS
    ]
    for item in value["programs"]:
        assert set(item) == {"name", "pressure", "seeds", "faster_in_seeds", *ARMS}
        for arm in ARMS:
            found = item[arm]
            assert found["completion_s"] > 0
            assert found["prompt_tokens"] >= found["cached_tokens"] + found["recomputed_tokens"] > 0
            assert found["join_stall_s"] >= 0
            assert ("directives" in found) == (arm == "hinted")
        directives = item["hinted"]["directives"]
        assert set(directives) == {"retain", "release", "prefetch", "demote", "warm"}
        assert set(directives["prefetch"]) == {"applied", "clipped", "rejected", "unsupported"}
    assert len(value["runs"]) == 2 * 2 * len(ARMS)
    print_report(rows, small(), Console(width=80))
    shown = capsys.readouterr().out
    assert all(max(map(len, text.splitlines())) <= 80 for text in [shown])
    assert shown.count("strongest, no hints  ") == 2
    assert shown.count("tree-of-thought: ") == 1
