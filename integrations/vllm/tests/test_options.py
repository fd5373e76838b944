"""Options are read strictly; what is wrong with them is said in one line."""

import math
from typing import Any

import pytest

from llmd_agents_vllm.device.options import Options
from llmd_agents_vllm.options import BadOptions


def test_whole_numbers_are_numbers() -> None:
    options = Options.of({"retention_budget": 1, "retention_budget_per_tenant": 0, "step_s": 0.02})
    assert (options.retention_budget, options.retention_budget_per_tenant, options.step_s) == (1.0, 0.0, 0.02)
    assert Options.of({}) == Options()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"retention": 1}, "retention: Extra inputs are not permitted (got 1; options: retention_budget, "),
        ({"retention_budget": "0.5"}, "retention_budget: Input should be a valid number (got '0.5'; "),
        ({"retention_budget": True}, "retention_budget: Input should be a valid number (got True; "),
        ({"retention_budget": 1.5}, "retention_budget: Input should be less than or equal to 1 (got 1.5; "),
        ({"retention_budget": None}, "retention_budget: Input should be a valid number (got None; "),
        ({"retention_budget": math.nan}, "retention_budget: Input should be a finite number (got nan; "),
        ({"step_s": math.inf}, "step_s: Input should be a finite number (got inf; "),
        ({"step_s": 0}, "step_s: Input should be greater than 0 (got 0; "),
        ({"step_s": "a\nb"}, "step_s: Input should be a valid number (got 'a\\nb'; "),
        ({1: 2}, "1: Keys should be strings (got 1; "),
        ([], "Input should be a valid dictionary or instance of Options (got []; "),
        (None, "Input should be a valid dictionary or instance of Options (got None; "),
    ],
)
def test_what_is_wrong_is_named(given: Any, said: str) -> None:
    with pytest.raises(BadOptions) as error:
        Options.of(given)
    assert str(error.value).startswith(f"AgentConnector: {said}")
    assert str(error.value).endswith(", decode_s_per_seq)")
    assert "\n" not in str(error.value)
