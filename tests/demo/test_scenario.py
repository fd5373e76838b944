"""The scenario that is fixed before anything is measured."""

from pathlib import Path

import pytest

from llmd_agents.demo.scenario import BadScenario, read_scenario

TEXT = (Path(__file__).parents[2] / "llmd_agents/demo/scenario.toml").read_text()


def test_the_packaged_scenario() -> None:
    scenario = read_scenario()
    profile = scenario.fleet.engine_profile()
    assert (scenario.seeds, scenario.pressures) == (5, (1.2, 2.0, 3.0))
    assert profile.name == "h100-8b"
    assert scenario.fleet.tokens == 2_640_000
    assert profile.cache_tokens == pytest.approx(440_000, abs=64)
    assert profile.host_blocks * profile.block_size == pytest.approx(440_000, abs=64)


@pytest.mark.parametrize("pressure", [1.2, 2.0, 3.0])
def test_the_load_follows_from_the_pressure(pressure: float) -> None:
    scenario = read_scenario()
    load = scenario.load(pressure)
    assert 0.25 <= load.busy <= 0.35
    assert load.round_s < scenario.warm_up_s
    context = (load.sessions * 30_000 + 40_000) / scenario.fleet.tokens
    assert context == pytest.approx(pressure, rel=0.05)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 5", "seeds = 0", "seeds"),
        ("seeds = 5", "seed = 5", "seed"),
        ("pressures = [1.2, 2.0, 3.0]", "pressures = []", "pressures"),
        ("busy = 0.3", "busy = 1.5", "background.busy"),
        ("tool_sigma = 0.6", "tool_sigma = ", "not TOML"),
    ],
)
def test_a_scenario_that_is_none_is_refused_by_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    assert read_scenario(path) == read_scenario()
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(BadScenario, match=f"mine.toml: .*{message}"):
        read_scenario(path)
    with pytest.raises(BadScenario, match="No such file"):
        read_scenario(tmp_path / "none.toml")
