"""Hints change what is cached, and no answer."""

from tests.servers.fleet import Fleet, forget

from .mixed_calls import CALLS, run


def test_hints_and_directives_change_no_answer(engines: Fleet) -> None:
    engine = engines.engines[0]
    plain = run(engine, hinted=False)
    forget(engine)
    again = run(engine, hinted=False)
    forget(engine)
    hinted = run(engine, hinted=True)
    assert len(plain.calls) == CALLS == 200
    assert plain.changed(hinted) <= plain.changed(again)
    applied = {kind: count for (kind, result), count in hinted.directives.items() if result == "applied"}
    assert applied.keys() == {"retain", "release", "warm"}
    assert hinted.cached("conversation") > max(plain.cached("conversation"), again.cached("conversation"))
