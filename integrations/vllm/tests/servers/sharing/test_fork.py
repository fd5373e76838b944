"""With shared storage the context of a fork is computed once in all, wherever its branches go."""

from tests.servers.fan_out import WIDTH, fan_out
from tests.servers.fleet import Fleet, summed


def test_the_context_of_a_fork_is_computed_once_in_all(engines: Fleet) -> None:
    before = engines.counters()
    run = fan_out(engines, "fork")
    used = [later - earlier for later, earlier in zip(engines.counters(), before, strict=True)]
    requests = sum(one.requests for one in used)
    assert run.shared >= 1200
    assert len(run.engines) > 1, "the fork did not spread"
    assert requests >= 1 + WIDTH
    assert sum(one.cached for one in used) >= (requests - 1) * run.shared, "computed more than once"
    sources = summed(used)
    assert sources["disk"] >= (len(run.engines) - 1) * run.shared
    assert set(sources) == {"device", "disk"}
