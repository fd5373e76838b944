"""`warm` has an engine compute what will be asked for."""

import pytest

from harness.hinted import tip
from llmd_agents.hints import Warm, residency_scope
from tests.servers.fleet import Fleet, asked, context, directed, flood, when_answered


@pytest.mark.parametrize("salt", [{}, {"cache_salt": "a tenant's"}])
def test_what_was_given_up_is_there_again_before_it_is_asked_for(
    engines: Fleet, salt: dict[str, str]
) -> None:
    engine = engines.engines[0]
    messages = context("warmed")
    first = asked(engine, messages, **salt)
    flood(engine)
    assert asked(engine, messages, **salt) == first.computed()
    flood(engine)
    requests = engine.counters().requests
    (outcome,) = directed(engine, Warm(digest=tip(messages), scope=residency_scope(salt.get("cache_salt"))))
    assert outcome.outcome == "applied"
    when_answered(engine, requests + 1)
    assert asked(engine, messages, **salt) == first.served_from("device")
