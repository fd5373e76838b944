"""Observers that are put up for a while."""

import logging
import threading
from typing import Any

import pytest

from llmd_agents.hints import chain
from llmd_agents.linter import Cause, PrefixWarning, Watching, feed, live_message, watching

from .conversations import agent, continued, encoded


def test_a_block_sees_what_is_fed_while_it_runs_and_in_every_thread() -> None:
    edited = continued(agent())
    edited["messages"][0]["content"] += "!"
    feed("before", encoded(agent()))
    with watching() as outer:
        feed("b", encoded(agent()), chain(agent()), agent())
        with watching() as inner:
            thread = threading.Thread(target=feed, args=("b", encoded(edited), chain(edited)))
            thread.start()
            thread.join()
        feed("b", encoded(continued(edited)))
    feed("b", encoded(agent()))
    assert (outer.requests, inner.requests) == (3, 1)
    assert [one.cause for one in outer.divergences] == [Cause.EDITED_TURN]
    assert (len(outer.findings), len(inner.findings)) == (1, 0)


def test_feeding_never_raises_and_logs_no_contents(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("swordfish")

    monkeypatch.setattr(Watching, "observe", broken)
    with caplog.at_level(logging.DEBUG), watching():
        feed("b", encoded(agent()))
    assert "RuntimeError" in caplog.text
    assert "swordfish" not in caplog.text


def test_the_text_of_a_warning() -> None:
    edited = continued(agent())
    edited["messages"][0]["content"] = edited["messages"][0]["content"].replace("10:00:01", "10:03:17")
    with watching() as seen:
        feed("b7", encoded(agent()))
        feed("b7", encoded(edited))
    text = live_message(seen.divergences[0])
    assert text == (
        "the prompt on branch b7 diverged at message 0, byte 36: a time changed in the system prompt, "
        "332 tokens recomputed each turn. Leave the time out, round it to the day, or put it into the newest "
        "message."
    )
    assert issubclass(PrefixWarning, UserWarning)
