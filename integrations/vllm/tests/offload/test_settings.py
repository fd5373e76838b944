"""Options are read or refused when the engine starts."""

from typing import Any

import pytest

from llmd_agents_vllm.offload.settings import Settings, current, in_force, settings_of
from llmd_agents_vllm.options import BadOptions


def test_defaults() -> None:
    assert settings_of({}) == Settings(retention_budget=0.9, retention_budget_per_tenant=1.0) == current()


def test_shares_are_read() -> None:
    config = {"retention_budget": 0, "retention_budget_per_tenant": 0.25, "cpu_bytes_to_use": 1}
    assert settings_of(config) == Settings(retention_budget=0.0, retention_budget_per_tenant=0.25)


@pytest.mark.parametrize("key", ["retention_budget", "retention_budget_per_tenant"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True, [0.5]])
def test_what_is_no_share_is_refused(key: str, value: Any) -> None:
    with pytest.raises(
        BadOptions, match=rf"^AgentOffloadSpec: {key}: Input should be .* \(got .*; options: "
    ):
        settings_of({key: value})


def test_settings_hold_while_they_are_in_force() -> None:
    with in_force(Settings(retention_budget=0.5)):
        assert current().retention_budget == 0.5
    assert current().retention_budget == 0.9
