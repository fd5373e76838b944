"""Results are kept trial by trial, and reported as they are."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.counters import Counters
from harness.demo_outcome import Outcome
from harness.demo_report import CACHED_FIRST, HINTED, STOCK, print_report, sentence
from harness.effect_report import BEGIN, END, markdown, put_into
from harness.effect_results import OtherSetup, add_result, as_json, read_results
from harness.effect_trial import ProgramResult, Result, Setup, Trial
from harness.fleet_arms import ARMS, Size
from harness.programs import PROGRAMS

PROGRAM = ProgramResult(completion_s=2.0, prompt_tokens=1000, cached_tokens=600, computed_again=50)
RESULT = Result(
    programs=dict.fromkeys(PROGRAMS, PROGRAM),
    prompt_tokens=10_000,
    cached_by_source={"device": 4000, "host": 1000},
    preemptions=0,
    background_calls=10,
    background_prompt_tokens=6000,
    background_cached_tokens=2600,
    background_call_s=0.25,
    refused=0,
    sessions=40,
    speed=5.0,
    fill_s=9.0,
    directives={"retain": {"applied": 5, "clipped": 1, "rejected": 3}},
)
TRIAL = Trial("lru", 2.0, 1)
SETUP = Setup()


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    assert read_results(path, SETUP) == {}
    add_result(path, SETUP, TRIAL, RESULT)
    add_result(path, SETUP, replace(TRIAL, seed=2), RESULT)
    assert read_results(path, SETUP) == {TRIAL: RESULT, replace(TRIAL, seed=2): RESULT}


def test_a_line_that_was_cut_short_costs_that_trial_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    add_result(path, SETUP, TRIAL, RESULT)
    add_result(path, SETUP, replace(TRIAL, seed=2), RESULT)
    path.write_text(path.read_text()[:-30])
    add_result(path, SETUP, replace(TRIAL, seed=3), RESULT)
    assert [trial.seed for trial in read_results(path, SETUP)] == [1, 3]


@pytest.mark.parametrize("line", ["[]", "{}", '{"trial": {}, "setup": {}, "result": {}}', "\0"])
def test_foreign_lines_are_left_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    assert read_results(path, SETUP) == {}


def test_trials_of_another_setup_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    add_result(path, replace(SETUP, size=Size(host_blocks=10)), TRIAL, RESULT)
    with pytest.raises(OtherSetup, match=r"results.jsonl:1: .*'host_blocks': 10"):
        read_results(path, SETUP)


def test_the_table_shows_medians_and_only_what_was_run() -> None:
    low = replace(
        RESULT, cached_by_source={}, programs={name: replace(PROGRAM, completion_s=9.0) for name in PROGRAMS}
    )
    results = {TRIAL: low, replace(TRIAL, seed=2): RESULT, replace(TRIAL, seed=3): RESULT}
    text = markdown(results)
    assert "Medians of 3 runs." in text
    rows = [line for line in text.splitlines() if line.startswith(f"| {ARMS['lru'].title} |")]
    assert rows == [
        "| vLLM | 60.0 % | 60–60 % | 43.3 % | 50.0 % | 40.0 % | 10.0 % | 1,600 | 200 | 5,000 | 0 | 6 |",
        "| vLLM | 2.0 | 2.0 | 2.0 | 2.0 | 0.25 | 10 |",
    ]
    assert "tier C" not in text
    assert markdown({}) == "\n"
    assert '"pressure": 2.0' in as_json(results, SETUP)


def test_the_table_takes_its_place_in_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Effect\n\n{BEGIN}\n\nold\n\n{END}\n\nThe end.\n")
    put_into(page, "new")
    assert page.read_text() == f"# Effect\n\n{BEGIN}\n\nnew\n{END}\n\nThe end.\n"
    put_into(page, "newer")
    assert page.read_text() == f"# Effect\n\n{BEGIN}\n\nnewer\n{END}\n\nThe end.\n"
    put_into(tmp_path / "alone.md", "new")
    assert (tmp_path / "alone.md").read_text() == "new"


def outcome(
    computed: int, again: int = 0, directives: Mapping[str, Mapping[str, int]] | None = None
) -> Outcome:
    return Outcome(
        completion_s=1.5,
        counters=Counters(prompt_tokens=computed + 500, cached_by_source={"device": 400, "host": 100}),
        computed_again=again,
        directives=directives or {},
    )


def test_the_demonstrations_sentences_say_which_way_it_went() -> None:
    told = {"retain": {"applied": 1, "rejected": 4}, "warm": {"applied": 2, "clipped": 1}}
    arms = {STOCK: outcome(3000, 900), CACHED_FIRST: outcome(2000, 700), HINTED: outcome(1000, 100, told)}
    assert sentence(arms) == (
        "with hints the engines computed 1,000 prompt tokens fewer than cached first "
        "(1,000 instead of 2,000). "
        "Computed again: 100 instead of 700. "
        "Engines were told when context is needed next once, to compute context ahead 3 times."
    )
    assert sentence({STOCK: outcome(1000), HINTED: outcome(1500)}) == (
        "with hints the engines computed 500 prompt tokens more than vLLM as it is (1,500 instead of 1,000). "
        "Nothing had to be computed again either way. Nothing followed from its hints."
    )
    alike = sentence({STOCK: outcome(1000), HINTED: outcome(1010)})
    assert "as many prompt tokens as vLLM as it is, 1,010" in alike


def test_the_demonstrations_table_has_a_row_for_each_arm() -> None:
    console = Console(record=True, width=80)
    large = outcome(200_000, 100_000, {"retain": {"applied": 1234}})
    print_report({"swarm": {STOCK: large, CACHED_FIRST: large, HINTED: outcome(1000)}}, console)
    text = console.export_text()
    assert "…" not in text
    assert [line.split() for line in text.splitlines() if line.startswith("   with hints")] == [
        ["with", "hints", "1.5", "1,500", "400", "100", "0", "1,000", "0", "0"]
    ]


def test_arms_have_the_same_host_tier_where_they_have_one() -> None:
    options = {name: arm.engine(Size()) for name, arm in ARMS.items()}
    assert options["lru-device"].kv_transfer_config is None
    bytes_of = {
        name: str(one.kv_transfer_config).partition("'cpu_bytes_to_use': ")[2].partition(",")[0]
        for name, one in options.items()
        if one.kv_transfer_config is not None
    }
    assert set(bytes_of.values()) == {"6553600"}
    assert {name for name, arm in ARMS.items() if arm.hints} == {"tier-a", "tier-b", "tier-c"}
    assert options["tier-a"].flags == ("--scheduling-policy", "priority")
    assert "llmd" not in str(options["tier-a"].environment)
