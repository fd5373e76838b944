"""The branches of a fork share out the engines, and their context is computed once on each."""

from tests.servers.fan_out import WIDTH, fan_out
from tests.servers.fleet import Fleet, summed


def test_the_context_of_a_fork_is_computed_once_on_each_engine(engines: Fleet) -> None:
    before = engines.counters()
    run = fan_out(engines, "fork")
    used = [later - earlier for later, earlier in zip(engines.counters(), before, strict=True)]
    assert run.shared >= 1200
    assert len(run.engines) > 1, "the fork did not spread"
    assert sum(one.requests for one in used) >= 1 + WIDTH
    for one in used:
        assert one.cached >= (one.requests - 1) * run.shared, f"computed more than once: {one}"
    assert set(summed(used)) == {"device"}
    assert run.directives["warm"].keys() == {"applied"}
    assert run.directives["warm"]["applied"] >= len(run.engines) - 1, "the others were not warmed up"
