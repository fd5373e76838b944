"""What programs and background are made of, and what is counted of them."""

from pathlib import Path

import pytest

from harness.background_sessions import (
    Opening,
    ScaledSession,
    ScaledTurn,
    SessionMessages,
    mean_pause_s,
    openings,
    scaled_sessions,
)
from harness.made_text import made_text
from harness.program_calls import Call, computed_again

BLOCK = 4


def call(began: float, ended: float, prompt: str, output: str = "", cached: int = 0) -> Call:
    return Call(began, ended, tuple(map(ord, prompt)), tuple(map(ord, output)), cached)


def turn(*blocks: int, pause_s: float = 0.0) -> ScaledTurn:
    return ScaledTurn(blocks, 1, pause_s)


def text(messages: list[dict[str, str]]) -> str:
    return " ".join(message["content"] for message in messages)


def test_what_no_earlier_call_had_is_not_computed_again() -> None:
    assert computed_again([call(0, 1, "aaaabbbbc"), call(2, 3, "xxxxbbbbc")], BLOCK) == 0


def test_whole_blocks_that_were_not_cached_are_computed_again() -> None:
    assert computed_again([call(0, 1, "aaaabbbbc"), call(2, 3, "aaaabbbbccc")], BLOCK) == 8
    assert computed_again([call(0, 1, "aaaabbbbc"), call(2, 3, "aaaabbbbccc", cached=4)], BLOCK) == 4
    assert computed_again([call(0, 1, "aaaabbbbc"), call(2, 3, "aaaabbbbccc", cached=8)], BLOCK) == 0


def test_a_prompts_last_token_is_always_computed() -> None:
    assert computed_again([call(0, 1, "aaaabbbb"), call(2, 3, "aaaabbbb", cached=4)], BLOCK) == 0


def test_a_reply_counts_but_for_its_last_token() -> None:
    assert computed_again([call(0, 1, "aaaa", "bbbbc"), call(2, 3, "aaaabbbbc")], BLOCK) == 8
    assert computed_again([call(0, 1, "aaaa", "bbbb"), call(2, 3, "aaaabbbbc")], BLOCK) == 4


def test_calls_at_the_same_time_owe_each_other_nothing() -> None:
    assert computed_again([call(0, 2, "aaaabbbbc"), call(1, 3, "aaaabbbbc")], BLOCK) == 0


def test_made_text_is_the_same_for_the_same_name_alone() -> None:
    assert made_text(100, "a", 1) == made_text(100, "a", 1)
    assert made_text(100, "a", 1) != made_text(100, "a", 2)
    assert len(made_text(100, "a").split()) == 50


def test_equal_blocks_are_equal_text_and_others_are_not() -> None:
    session = ScaledSession("s", 2, (turn(1, 2, 3), turn(1, 2, 3, 4, 5), turn(1, 2, 9)))
    messages = SessionMessages("s", session)
    first, second, third = (messages.messages(each.blocks) for each in session.turns)
    assert [message["role"] for message in second] == ["system", "user", "user"]
    assert second[:2] == first
    assert third[0] == first[0]
    assert text(third) != text(first)
    assert text(SessionMessages("other", session).messages((1, 2, 3))) != text(first)


def test_a_session_that_is_joined_late_has_the_same_messages() -> None:
    session = ScaledSession("s", 1, (turn(1, 2), turn(1, 2, 3), turn(1, 2, 3, 4)))
    followed, joined = SessionMessages("s", session), SessionMessages("s", session)
    for each in session.turns:
        whole = followed.messages(each.blocks)
    for each in session.turns[:-1]:
        joined.said(each.blocks)
    assert joined.messages(session.turns[-1].blocks) == whole


def test_a_session_without_head_begins_with_its_first_prompt() -> None:
    session = ScaledSession("s", 0, (turn(1, 2),))
    assert len(SessionMessages("s", session).messages((1, 2))) == 1


@pytest.mark.parametrize("tokens", [1, 50, 400])
def test_as_many_sessions_open_as_hold_what_is_wanted(tokens: int) -> None:
    sessions = [
        ScaledSession(f"s{at}", 1, tuple(turn(*range(10 + each)) for each in range(5))) for at in range(3)
    ]
    opened = openings(sessions, 1, tokens)
    assert sum(one.tokens for one in opened) >= tokens
    assert sum(one.tokens for one in opened[:-1]) < tokens
    assert opened == openings(sessions, 1, tokens)


def test_the_mean_pause_is_of_what_is_still_to_come() -> None:
    session = ScaledSession(
        "s", 1, (turn(1), turn(1, pause_s=100.0), turn(1, pause_s=4.0), turn(1, pause_s=2.0))
    )
    assert mean_pause_s([Opening(session, 1)]) == 3.0
    assert mean_pause_s([Opening(session, 3)]) == 1.0


def test_recorded_sessions_are_scaled(traces: Path) -> None:
    sessions = scaled_sessions(traces / "claude-code", 3000)
    assert len(sessions) > 20
    assert all(len(each.blocks) <= 3000 for session in sessions for each in session.turns)
    assert all(each.pause_s <= 600 and 1 <= each.reply_tokens <= 16 for s in sessions for each in s.turns)
    # Nearly all turns extend the one before.
    pairs = [pair for session in sessions for pair in zip(session.turns, session.turns[1:], strict=False)]
    extended = sum(late.blocks[: len(early.blocks)] == early.blocks for early, late in pairs)
    assert extended > 0.5 * len(pairs)
