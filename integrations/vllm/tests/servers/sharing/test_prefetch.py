"""What lies in the shared directory is on the device before it is asked for; any engine finds it there."""

import pytest

from harness.engines import Engine
from harness.hinted import Messages, tip
from llmd_agents.hints import Demote, Prefetch, Tier
from tests.servers.fleet import Fleet, asked, context, directed, flood, when_answered

STORAGE = Tier.STORAGE.value


def push_out(engine: Engine, messages: Messages, *, by_demoting: bool) -> None:
    """Sees to it that a conversation is in the directory alone."""
    if by_demoting:
        (outcome,) = directed(engine, Demote(digest=tip(messages), tier=STORAGE))
        assert outcome.outcome == "applied"
    else:
        flood(engine)


@pytest.mark.parametrize("by_demoting", [False, True])
def test_prefetch_makes_a_hit_in_storage_one_on_the_device(engines: Fleet, by_demoting: bool) -> None:
    engine = engines.engines[0]
    messages = context(f"prefetched{by_demoting}")
    computed = asked(engine, messages)
    assert computed == computed.computed()

    push_out(engine, messages, by_demoting=by_demoting)
    assert asked(engine, messages) == computed.served_from("disk")

    push_out(engine, messages, by_demoting=by_demoting)
    requests = engine.counters().requests
    (outcome,) = directed(engine, Prefetch(digest=tip(messages), tier=STORAGE))
    assert outcome.outcome == "applied"
    when_answered(engine, requests + 1)
    assert asked(engine, messages) == computed.served_from("device")


def test_what_is_on_the_device_already_is_not_brought_again(engines: Fleet) -> None:
    engine = engines.engines[0]
    messages = context("there already")
    engine.chat(messages)
    before = engine.counters()
    (outcome,) = directed(engine, Prefetch(digest=tip(messages), tier=STORAGE))
    assert outcome.outcome == "applied"
    assert (engine.counters() - before).requests == 0


def test_an_engine_that_never_had_the_prompt_needs_the_call_itself(engines: Fleet) -> None:
    """It knows neither the prompt's tokens nor their digest; a warm-up request brings both."""
    first, second, _ = engines.engines
    messages = context("elsewhere")
    computed = asked(first, messages)

    (outcome,) = directed(second, Prefetch(digest=tip(messages), tier=STORAGE))
    assert outcome.outcome == "rejected"

    warm_up = asked(second, messages, max_tokens=1, priority=2**31 - 1)
    assert warm_up == warm_up.served_from("disk")
    assert asked(second, messages) == computed.served_from("device")

    push_out(second, messages, by_demoting=True)
    requests = second.counters().requests
    (outcome,) = directed(second, Prefetch(digest=tip(messages), tier=STORAGE))
    assert outcome.outcome == "applied"
    when_answered(second, requests + 1)
    assert asked(second, messages) == computed.served_from("device")
