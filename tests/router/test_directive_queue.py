from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import Directive, Release, Retain
from llmd_agents.router.directive_queue import DirectiveQueue, Displaced
from llmd_agents.runtime import Issued


def issued(number: int, directive: Directive) -> Issued:
    return Issued(f"d{number}", "engine-0", directive, "default")


def retain(number: int, context: int, scope: str | None = None) -> Issued:
    return issued(number, Retain(digest=bytes([context]) * 16, scope=scope, after=1.0, expires=2.0))


def release(number: int, context: int) -> Issued:
    return issued(number, Release(digest=bytes([context]) * 16))


def test_of_several_estimates_for_a_context_the_newest_is_sent() -> None:
    queue = DirectiveQueue()
    first, between, other, newest = retain(1, 7), release(2, 7), retain(3, 7, "red"), retain(4, 7)
    assert [queue.put(one) for one in (first, between, other)] == [None, None, None]
    assert queue.put(newest) == Displaced(first, "superseded")
    assert queue.take(2) == [between, other]
    assert queue.take(2) == [newest]
    assert queue.put(retain(5, 7)) is None


def test_a_full_queue_drops_the_oldest_estimate_first() -> None:
    queue = DirectiveQueue(most=3)
    dead, old, young = release(1, 1), retain(2, 2), retain(3, 3)
    for one in (dead, old, young):
        queue.put(one)
    assert queue.put(release(4, 4)) == Displaced(old, "dropped")
    assert queue.put(release(5, 5)) == Displaced(young, "dropped")
    assert queue.put(release(6, 6)) == Displaced(dead, "dropped")
    assert [one.id for one in queue.take(9)] == ["d4", "d5", "d6"]


@st.composite
def puts(draw: st.DrawFn) -> Iterator[Issued]:
    kinds = draw(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=40))
    return (
        retain(n, context) if estimate else release(n, context) for n, (estimate, context) in enumerate(kinds)
    )


@given(puts(), st.integers(1, 6), st.integers(1, 3))
def test_nothing_is_lost_unnoticed(ones: Iterator[Issued], most: int, message: int) -> None:
    queue = DirectiveQueue(most=most)
    given_up, put = [], []
    for one in ones:
        put.append(one)
        if (displaced := queue.put(one)) is not None:
            given_up.append(displaced.issued)
        assert len(queue) <= most
    taken = []
    while batch := queue.take(message):
        assert len(batch) <= message
        taken += batch
    assert sorted(one.id for one in (*given_up, *taken)) == sorted(one.id for one in put)
    assert taken == [one for one in put if one in taken]
    estimates = [one.directive.digest for one in taken if isinstance(one.directive, Retain)]
    assert len(estimates) == len(set(estimates))
