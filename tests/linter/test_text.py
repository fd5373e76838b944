"""How far texts are alike, and what in them changes by itself."""

from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.linter import Cause
from llmd_agents.linter.excerpts import excerpt_at
from llmd_agents.linter.text import common_prefix, common_suffix, similar
from llmd_agents.linter.volatile import volatile_cause

alike = st.text("ab", max_size=30)


@given(alike, alike)
def test_common_ends_are_those_that_looking_at_each_character_finds(one: str, other: str) -> None:
    def alike_at_start(a: str, b: str) -> int:
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))

    assert common_prefix(one, other) == alike_at_start(one, other)
    most = min(len(one), len(other))
    assert common_suffix(one, other, most) == alike_at_start(one[::-1], other[::-1])


def test_a_text_is_similar_to_one_with_something_put_in() -> None:
    assert similar("the cat sat down", "the big cat sat down")
    assert not similar("the cat sat down", "a dog ran off to the sea")
    assert not similar("", "anything")


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("at 2026-11-21T10:00:01Z.", "at 2026-11-21T10:03:17Z.", Cause.TIMESTAMP),
        ("at 2026-11-21 10:00:01.123456", "at 2026-11-21 10:00:01.223456", Cause.TIMESTAMP),
        ("It is 9:59 AM now", "It is 10:05 AM now", Cause.TIMESTAMP),
        ("On Friday, we", "On Saturday, we", Cause.TIMESTAMP),
        ("Nov 9, 2026: ", "Nov 10, 2026: ", Cause.TIMESTAMP),
        ("21 November 2026", "1 December 2026", Cause.TIMESTAMP),
        ("date 11/21/2026", "date 11/22/2026", Cause.TIMESTAMP),
        ("now=1795255299.25 ", "now=1795255301.5 ", Cause.TIMESTAMP),
        (
            "session 3f2b8c1e-0d4a-4e6f-9a1b-2c3d4e5f6a7b.",
            "session 9a8b7c6d-1e2f-4a3b-8c4d-5e6f7a8b9c0d.",
            Cause.RANDOM_ID,
        ),
        ("trace 9f8e7d6c5b4a3f2e", "trace 1a2b3c4d5e6f7a8b", Cause.RANDOM_ID),
        ("req_a8Xk29dLq", "req_b7Yl31eMr", Cause.RANDOM_ID),
        ("turn 3 of 10", "turn 4 of 10", Cause.NUMBER),
        ("spent $1.25", "spent $2.50", Cause.NUMBER),
        ("a cat", "a dog", None),
        ("money matters", "month matters", None),
        ("documentation", "documentaries", None),
        ("", "", None),
    ],
)
def test_times_ids_and_numbers_are_told_from_words(before: str, after: str, cause: Cause | None) -> None:
    at = common_prefix(before, after)
    assert volatile_cause(before, at, after, at) is cause
    # Where it stands does not matter, nor how long the text is.
    lead = "word " * 40_000
    assert volatile_cause(lead + before, at + len(lead), after, at) is cause


def test_a_change_beside_a_time_is_not_one_of_the_time() -> None:
    before, after = "It is 10:00. A cat is here.", "It is 10:00. A dog is here."
    at = common_prefix(before, after)
    assert volatile_cause(before, at, after, at) is None


@given(st.text(max_size=200), st.text(max_size=200))
def test_excerpts_are_one_short_printable_line_with_the_caret_at_the_difference(
    before: str, after: str
) -> None:
    at = common_prefix(before, after)
    shown = excerpt_at(before, at, after, at)
    for text in (shown.before, shown.after):
        assert text.isprintable()
        assert len(text) <= (32 + 45) * 10 + 2
        assert text[: shown.caret] == shown.before[: shown.caret]
    if at < min(len(before), len(after)):
        assert shown.before[shown.caret :] != shown.after[shown.caret :]
