"""Marks: what is declared of content where it is made."""

from datetime import timedelta
from typing import Any

import pytest
from openai import OpenAI

from llmd_agents import instrument, mark, program
from llmd_agents.client.marks import MARKS_MAX, mark_of
from llmd_agents.hints import Lifetime, Scope, SegmentType
from tests.recording import Recorded, Reply, recording_server


def test_marked_content_is_declared_wherever_it_is_sent() -> None:
    manual = mark("How sea walls are mended.", "document", lifetime="10m", scope="tenant")
    notes: Any = mark({"role": "user", "content": "notes"}, "scratch")
    with recording_server() as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            parts: Any = [{"type": "text", "text": manual}, {"type": "text", "text": "Sum it up."}]
            messages: Any = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
            client.chat.completions.create(model="m", messages=messages)
            client.chat.completions.create(model="m", messages=[*messages, notes])
        with program("other"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": manual}])
    first, second, third = (hints.segments for hints in recorded.steps)
    assert [segment.type for segment in first] == [SegmentType.SYSTEM_PROMPT, SegmentType.DOCUMENT]
    assert (first[1].lifetime, first[1].scope) == (600, Scope.TENANT)
    assert [segment.type for segment in second] == [SegmentType.SCRATCH]
    assert third[0].type is SegmentType.DOCUMENT
    assert all(b"llmd" not in call.body for call in recorded.calls)


def test_marks_outlive_a_resync() -> None:
    def reply(request: Recorded) -> Reply:
        return Reply(headers={"x-llmd-ack": "v=1, resync"})

    text = mark("A table of tides.", "checkpoint")
    said: Any = [{"role": "user", "content": text}]
    with recording_server(reply) as (recorded, url), OpenAI(base_url=url, api_key="k") as client:
        instrument(client)
        with program("p"):
            for number in range(3):
                client.chat.completions.create(model="m", messages=said)
                said.append({"role": "user", "content": f"more {number}"})
    assert [hints.segments[0].type for hints in recorded.steps] == [SegmentType.CHECKPOINT] * 3


def test_a_later_mark_of_the_same_content_wins() -> None:
    mark("the same text", "document")
    mark("the same text", "scratch", lifetime=timedelta(minutes=1))
    found = mark_of({"role": "user", "content": "the same text"})
    assert found is not None
    assert (found.type, found.lifetime) == (SegmentType.SCRATCH, 60)
    mark("the same text", "document", lifetime="branch")
    assert (found := mark_of({"role": "tool", "content": "the same text"})) is not None
    assert found.lifetime is Lifetime.BRANCH


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"type": "essay"}, "type"),
        ({"type": "document", "lifetime": "for ever"}, "lifetime"),
        ({"type": "document", "lifetime": -1}, "duration"),
        ({"type": "document", "lifetime": "5 weeks"}, "duration"),
        ({"type": "document", "scope": "world"}, "scope"),
    ],
)
def test_misuse_is_told_where_it_happens(arguments: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        mark("text", **arguments)
    with pytest.raises(TypeError, match="text or a message"):
        mark(7, "document")


def test_marks_are_bounded() -> None:
    first = mark("the first of many", "document")
    for number in range(MARKS_MAX):
        mark(f"text {number}", "scratch")
    assert mark_of({"role": "user", "content": first}) is None
    assert mark_of({"role": "user", "content": "text 7"}) is not None


@pytest.mark.parametrize("item", [None, 7, "text", [], {"content": {"a": 1}}, {"content": [1, {"text": 2}]}])
def test_anything_may_be_sent(item: Any) -> None:
    mark("something", "document")
    assert mark_of(item) is None
