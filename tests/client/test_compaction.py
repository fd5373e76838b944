"""When a conversation counts as compacted, and when it does not."""

from typing import Any

from llmd_agents.client.compaction import Conversations
from llmd_agents.hints import Link, chain

SYSTEM = {"role": "system", "content": "You mend sea walls."}


def links(*texts: str, first: Any = SYSTEM) -> list[Link]:
    return chain({"messages": [first, *({"role": "user", "content": text} for text in texts)]})


def test_a_shorter_prompt_after_a_conversation_supersedes_it() -> None:
    branch = Conversations()
    assert branch.follow(links("a"), "s1", ()) is None
    assert branch.follow(long := links("a", "b" * 50, "c" * 50), "s2", ("s1",)) is None
    assert branch.follow(links("summary", "c"), "s3", ("s2",)) == long[-1].digest
    assert branch.follow(links("summary", "c", "d"), "s4", ("s3",)) is None


def test_what_is_no_conversation_is_not_superseded() -> None:
    branch = Conversations()
    branch.follow(links("a long question, asked once"), "s1", ())
    assert branch.follow(links("b"), "s2", ("s1",)) is None


def test_a_call_that_overlaps_supersedes_nothing() -> None:
    branch = Conversations()
    branch.follow(links("a"), "s1", ())
    branch.follow(links("a", "b" * 50), "s2", ("s1",))
    assert branch.follow(links("c"), "s3", ("s1",)) is None


def test_another_agent_supersedes_nothing() -> None:
    branch = Conversations()
    branch.follow(links("a"), "s1", ())
    branch.follow(links("a", "b" * 50), "s2", ("s1",))
    other = {"role": "system", "content": "You give titles."}
    assert branch.follow(links("b", first=other), "s3", ("s2",)) is None


def test_a_longer_prompt_is_no_compaction() -> None:
    branch = Conversations()
    branch.follow(links("a"), "s1", ())
    branch.follow(links("a", "b"), "s2", ("s1",))
    assert branch.follow(links("c" * 100, "d"), "s3", ("s2",)) is None


def test_after_one_mistake_nothing_is_taken_for_a_compaction() -> None:
    branch = Conversations()
    branch.follow(links("a"), "s1", ())
    branch.follow(links("a", "b" * 50), "s2", ("s1",))
    assert branch.follow(links("a side question"), "s3", ("s2",)) is not None
    assert branch.follow(links("a", "b" * 50, "c"), "s4", ("s3",)) is None
    assert branch.follow(links("another"), "s5", ("s4",)) is None


def test_a_response_that_names_its_predecessor_supersedes_nothing() -> None:
    branch = Conversations()
    first = {"instructions": "Mend.", "input": [{"role": "user", "content": "a" * 50}]}
    more = {"role": "user", "content": "b" * 50}
    branch.follow(chain(first), "s1", ())
    branch.follow(chain({**first, "input": [*first["input"], more]}), "s2", ("s1",))
    later = chain({"instructions": "Mend.", "previous_response_id": "resp_2", "input": "c"})
    assert branch.follow(later, "s3", ("s2",)) is None
