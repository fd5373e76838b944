"""What runs in virtual time is what runs over sockets."""

import pytest

from llmd_agents.demo.over_http import run_over_http
from llmd_agents.demo.scenario import read_scenario
from llmd_agents.demo.trial import Trial, run_trial

SCALE = 20.0


def test_react_over_http_agrees_with_virtual_time() -> None:
    """The engines' modelled time and the token counts must agree; of the time by the client's clock it is
    known only that nothing is faster than the model, since there everything that Python and HTTP take on a
    machine that may be busy counts `SCALE` times."""
    scenario = read_scenario()
    (virtual,) = run_trial(scenario, Trial("hinted", 0, 1, ("react",))).values()
    (http,) = run_over_http(scenario, ["react"], SCALE)
    assert (http.calls, http.prompt_tokens) == (virtual.calls, virtual.prompt_tokens)
    assert http.cached_tokens == pytest.approx(virtual.cached_tokens, rel=0.01)
    assert http.modelled_s == pytest.approx(virtual.modelled_s, rel=0.02)
    tools_s = virtual.completion_s - virtual.modelled_s
    assert http.completion_s >= 0.98 * (http.modelled_s + tools_s)
