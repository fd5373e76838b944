"""Books of keys whose order is odd: caches with gaps, and callers that contradict themselves."""

from llmd_agents_vllm.offload.declared import Declaration
from llmd_agents_vllm.offload.ledger import Ledger

from .stories import TOKENS


def said(*, ends: bool) -> Declaration:
    return Declaration(
        scope=None,
        program="p",
        branch="main",
        agent=None,
        step="s",
        follows=(),
        ends=ends,
        median=None if ends else 25.0,
        sigma=0.3,
        since=1.0,
        lives=(),
    )


def path(letters: str) -> list[tuple[bytes, int]]:
    return [(letter.encode(), index * TOKENS) for index, letter in enumerate(letters, 1)]


def books(letters: str) -> Ledger:
    ledger = Ledger(100, 100.0)
    for letter in letters:
        ledger.came(letter.encode(), None, 0.0)
    return ledger


def given_up(ledger: Ledger, n: int, now: float) -> str:
    return b"".join(ledger.victims(n, lambda key: True, now)).decode()


def test_keys_that_are_said_to_extend_each_other_both_ways_do_no_harm() -> None:
    ledger = books("abc")
    ledger.finished([path("ab")], None, 1.0)
    ledger.finished([path("ba")], None, 2.0)
    ledger.finished([path("cab"), path("bca")], said(ends=False), 3.0)
    assert sorted(given_up(ledger, 3, 30.0)) == ["a", "b", "c"]


def test_a_window_over_the_context_leaves_gaps() -> None:
    ledger = books("abcdefxy")
    ledger.finished([path("xy")], None, 1.0)
    ledger.finished([path("abcd"), path("ef")], said(ends=False), 2.0)
    ledger.finished([path("ad"), path("f")], said(ends=True), 3.0)
    assert sorted(given_up(ledger, 6, 4.0)) == ["a", "b", "c", "d", "e", "f"]


def test_what_went_before_its_request_ended_is_not_missed() -> None:
    ledger = books("abc")
    ledger.went(b"b")
    ledger.finished([path("abc")], said(ends=True), 1.0)
    assert given_up(ledger, 3, 2.0) == "ca"
    ledger.went(b"c")
    ledger.went(b"a")
    ledger.went(b"a")
    assert (len(ledger), given_up(ledger, 3, 2.0)) == (0, "")
