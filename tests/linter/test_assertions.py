"""`assert_prefix_stable`, and what its error says."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from llmd_agents.hints import Hints, Program, Step
from llmd_agents.linter import Prices, UnreadablePrompt, assert_prefix_stable, feed

from .conversations import Body, agent, continued, encoded


@dataclass
class Call:
    body: bytes
    path: str = "/v1/chat/completions"
    hints: Hints | None = None


@dataclass
class Recorded:
    requests: list[Call] = field(default_factory=list)


def later(time: str = "10:03:17") -> Body:
    body = continued(agent())
    body["messages"][0]["content"] = body["messages"][0]["content"].replace("10:00:01", time)
    return body


def test_stable_prompts_pass() -> None:
    bodies: list[Any] = [
        agent(),
        encoded(continued(agent())),
        encoded(continued(continued(agent()))).decode(),
    ]
    assert_prefix_stable(bodies)
    with assert_prefix_stable() as seen:
        for body in (agent(), continued(agent())):
            feed("b", encoded(body))
    assert seen.requests == 2


def test_the_error_says_where_what_how_much_and_what_to_do() -> None:
    with pytest.raises(AssertionError) as failed:
        assert_prefix_stable([agent(), later()], prices=Prices(2.5, 0.25))
    assert str(failed.value) == (
        "the prompt's prefix is not stable\n"
        "\n"
        "diverged at message 0, byte 36: a time changed in the system prompt, 332 tokens recomputed each "
        "turn, about $0.00075 at the configured price\n"
        "  before  …üße!\\nThe time is 2026-11-21T10:00:01Z.\\nBe brief. xxxxxxxxxxxxxxxxxxxxxxxxxxx…\n"
        "  after   …üße!\\nThe time is 2026-11-21T10:03:17Z.\\nBe brief. xxxxxxxxxxxxxxxxxxxxxxxxxxx…\n"
        "                                            ^\n"
        "  Leave the time out, round it to the day, or put it into the newest message. "
        "To accept it: allow=['timestamp']."
    )


def test_many_divergences_make_a_short_error() -> None:
    bodies = []
    body = agent()
    for turn in range(12):
        body = continued(body, f"a{turn}", f"q{turn}")
        body["messages"][0]["content"] += "!"
        bodies.append(body)
    with pytest.raises(AssertionError) as failed:
        assert_prefix_stable(bodies)
    assert str(failed.value).count("diverged at") == 5
    assert str(failed.value).endswith("… and 6 more")


def test_causes_can_be_allowed_and_must_exist() -> None:
    assert_prefix_stable([agent(), later()], allow=["timestamp"])
    with pytest.raises(AssertionError):
        assert_prefix_stable([agent(), later()], allow=["random_id"])
    with pytest.raises(ValueError, match="time_stamp"):
        assert_prefix_stable([agent()], allow=["time_stamp"])


def test_compaction_is_allowed_unless_it_is_not() -> None:
    body = agent()
    for turn in range(8):
        body = continued(body, f"a{turn}", f"q{turn}")
    short = {**body, "messages": [body["messages"][0], *body["messages"][-3:]]}
    assert_prefix_stable([body, short])
    with pytest.raises(AssertionError, match="19 messages became 3"):
        assert_prefix_stable([body, short], compaction=False)


def test_as_a_context_manager() -> None:
    def block(error: Exception | None = None) -> None:
        with assert_prefix_stable():
            feed("b", encoded(agent()))
            feed("b", encoded(later()))
            if error is not None:
                raise error

    with pytest.raises(AssertionError, match=r"message 0, byte 36.*branch b"):
        block()
    with pytest.raises(KeyError):  # the block's own error is the one that counts
        block(KeyError())


def test_nothing_to_look_at_is_no_success() -> None:
    with pytest.raises(AssertionError, match="no request was seen"):
        assert_prefix_stable([])
    with pytest.raises(AssertionError, match="no request was seen"):
        assert_prefix_stable(Recorded([Call(b'{"events": []}', "/v1/agent/events")]))
    with pytest.raises(AssertionError, match="no request was seen"), assert_prefix_stable():
        pass
    for body in (b"no JSON", {"model": "m"}, {"prompt": [1, 2]}):
        with pytest.raises(UnreadablePrompt):
            assert_prefix_stable([body])


def test_recorded_calls_are_told_apart_by_their_branches() -> None:
    def hints(branch: str) -> Hints:
        return Hints(program=Program(id="p"), step=Step(id="s", branch=branch))

    calls = [Call(encoded(agent()), hints=hints("one")), Call(encoded(later()), hints=hints("other"))]
    assert_prefix_stable(Recorded([*calls, Call(b'{"input": "x"}', "/v1/embeddings")]))
    with pytest.raises(AssertionError, match="branch p/one"):
        assert_prefix_stable(Recorded([*calls, Call(encoded(later("10:09:00")), hints=hints("one"))]))
    with pytest.raises(AssertionError):
        assert_prefix_stable(Recorded([Call(call.body) for call in calls]))
