"""The linter beside running programs: one warning per cause, at the application's own line."""

import inspect
import warnings
from typing import Any

import pytest
from openai import OpenAI

from llmd_agents import instrument, program
from llmd_agents.client import live_lint
from llmd_agents.linter import PrefixWarning, PrefixWatch
from tests.recording import recording_server


def call(client: OpenAI, said: Any) -> int:
    client.chat.completions.create(model="m", messages=said)
    return inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]


@pytest.fixture
def client() -> Any:
    live_lint._live.cache_clear()  # what other tests were warned of
    with recording_server() as (_, url), OpenAI(base_url=url, api_key="k") as made:
        yield instrument(made)


def turns(name: str, minutes: int) -> list[Any]:
    clock = [
        {"role": "system", "content": f"You are {name}. It is 2026-01-01T10:{minute:02}:00Z. " + "x" * 5000}
        for minute in range(minutes)
    ]
    said = [{"role": "user", "content": f"turn {number}"} for number in range(minutes)]
    return [[clock[number], *said[: number + 1]] for number in range(minutes)]


def test_a_timestamp_is_warned_of_once(client: OpenAI) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with program("p") as run:
            lines = [call(client, said) for said in turns("a clock", 4)]
    (warning,) = [one for one in caught if one.category is PrefixWarning]
    assert (warning.filename, warning.lineno) == (__file__, lines[0])
    assert "message 0" in str(warning.message)
    assert "10:0" not in str(warning.message)  # nothing of what the prompt says
    assert [record.divergence is not None for record in run.history.steps] == [False, True, True, True]


def test_prompts_that_extend_each_other_are_fine(client: OpenAI) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with program("p") as run:
            for said in turns("steady", 4):
                call(client, said[1:])
    assert all(record.divergence is None for record in run.history.steps)


def test_a_price_that_cannot_be_read_is_told_and_the_finding_too(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMD_AGENTS_PRICE_INPUT", "cheap")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with program("p"):
            for said in turns("priceless", 2):
                call(client, [{"role": "developer", "content": said[0]["content"]}, *said[1:]])
    assert {warning.category for warning in caught} == {PrefixWarning, UserWarning}
    assert any("cheap" in str(warning.message) for warning in caught)


def test_a_branch_that_nobody_declared_ends_alone(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmd_agents.client.implicit.BRANCHES_MAX", 2)
    first, second = turns("one of many", 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(client, first)
        for number in range(4):
            call(client, [{"role": "user", "content": str(number)}])
        call(client, second)
    assert [one.category for one in caught] == [PrefixWarning]


def test_what_only_grows_is_not_read(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    observe = PrefixWatch.observe

    def counted(watch: PrefixWatch, branch: str, body: bytes, *more: Any) -> Any:
        read.append(body)
        return observe(watch, branch, body, *more)

    monkeypatch.setattr(PrefixWatch, "observe", counted)
    said: list[Any] = [
        {"role": "system", "content": "Mend walls." * 500},
        {"role": "user", "content": "one"},
    ]
    with warnings.catch_warnings(record=True) as caught, program("p") as run:
        warnings.simplefilter("always")
        for number in range(5):
            call(client, said)
            said += [{"role": "assistant", "content": "fine"}, {"role": "user", "content": f"turn {number}"}]
        assert len(read) == 1
        said[1] = {"role": "user", "content": "one, edited"}
        call(client, said)
    assert [record.divergence is not None for record in run.history.steps] == [False] * 5 + [True]
    assert sum(one.category is PrefixWarning for one in caught) == 1
    assert len(read) == 3


def test_what_is_too_short_to_be_cached_anywhere_is_left_alone(client: OpenAI) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with program("p") as run:
            for number in range(3):
                call(client, [{"role": "system", "content": f"It is 2026-01-01T10:0{number}:00Z."}])
    assert all(record.divergence is None for record in run.history.steps)


def test_what_was_sent_last_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_lint, "LATEST_BYTES", 1000)
    latest = live_lint._Latest()
    for number in range(100):
        latest.put(str(number), live_lint._Sent(b"x" * 300, ()))
    assert len(latest._sent) == 3
    assert latest._bytes == 900
    latest.put("99", live_lint._Sent(b"x" * 2000, ()))
    assert latest._bytes == 0
    latest.forget("99")
    assert not latest._sent
