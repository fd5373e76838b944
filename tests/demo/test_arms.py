"""The arms differ in what they are to compare, and in nothing else."""

from llmd_agents.demo.arms import ARMS
from llmd_agents.demo.scenario import read_scenario
from llmd_agents.runtime import Mode


def test_only_the_hinted_arm_acts_on_hints() -> None:
    profile = read_scenario().fleet.engine_profile()
    found = {}
    for name, arm in ARMS.items():
        core = arm.core(profile, 10.0)
        found[name] = (arm.runtime(["a"]).mode, "retain" in core.kv("e", 0.0).directives)
        assert core.profile == profile
    without = (Mode.OFF, False)
    assert found == {
        "round_robin": without,
        "prefix_aware": without,
        "strongest_unhinted": without,
        "hinted": (Mode.ACT, True),
    }
