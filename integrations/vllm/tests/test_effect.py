"""The command: what it refuses, and what it does not do again."""

from pathlib import Path

import pytest

from harness.effect import main
from harness.effect_results import add_result
from harness.effect_trial import Setup, Trial
from tests.test_effect_results import RESULT


def test_what_is_there_is_not_run_again(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, table, everything = (tmp_path / name for name in ("results.jsonl", "table.md", "all.json"))
    add_result(results, Setup(), Trial("lru", 2.0, 1), RESULT)
    wanted = ["--results", str(results), "--traces", str(traces / "claude-code"), "--quick", "--arms", "lru"]
    assert main([*wanted, "--markdown", str(table), "--json", str(everything)]) == 0
    assert "| vLLM | 60.0 % | 60–60 % | 43.3 % |" in capsys.readouterr().out
    assert "| vLLM | 60.0 % | 60–60 % | 43.3 % |" in table.read_text()
    assert '"trials"' in everything.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_without_recordings_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path / "results"), "--traces", str(tmp_path / "nowhere")]) == 2
    assert "no recorded sessions; name their folder with --traces" in capsys.readouterr().err


def test_a_recording_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.json").write_text("[]")
    assert main(["--results", str(tmp_path / "results"), "--traces", str(tmp_path)]) == 2
    assert "one.json" in capsys.readouterr().err


def test_results_of_another_setup_are_refused(
    traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    add_result(results, Setup(engines=7), Trial("lru", 2.0, 1), RESULT)
    assert main(["--results", str(results), "--traces", str(traces / "claude-code")]) == 2
    assert "'engines': 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--pressure", "0"], ["--seeds", "0"], ["--engines", "0"], ["--arms", "x"]]
)
def test_bad_options_are_refused(tmp_path: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--results", str(tmp_path / "results"), *option])
    assert refused.value.code == 2
