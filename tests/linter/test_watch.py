"""The watch: which earlier prompt a request continues, at what memory, and whatever the body is."""

import copy
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import UnreadableContext, chain
from llmd_agents.linter import Cause, Compaction, Divergence, PrefixWatch
from tests.strategies import bodies, json_values

from .conversations import Body, agent, continued, encoded


def observe(watch: PrefixWatch, body: Body, branch: str = "b", *, linked: bool = True) -> Any:
    return watch.observe(branch, encoded(body), chain(body) if linked else ())


linked = pytest.mark.parametrize("linked", [True, False])


@linked
def test_each_turn_is_compared_with_the_one_before(linked: bool) -> None:
    watch = PrefixWatch()
    body = agent()
    found = []
    for turn in range(6):
        body = continued(body, f"answer {turn}", f"question {turn}")
        if turn == 3:
            body["messages"][1]["content"] += " Please."
        found.append(observe(watch, body, linked=linked))
    assert [one and (one.branch, one.cause, one.message) for one in found] == [
        None,
        None,
        None,
        ("b", Cause.EDITED_TURN, 1),
        None,
        None,
    ]


@linked
def test_retries_repeats_and_going_back_are_fine(linked: bool) -> None:
    watch = PrefixWatch()
    longer = continued(agent())
    again = continued(agent(), "Another answer.", "Another question?")
    for body in (agent(), agent(), longer, longer, agent(), again, continued(again), continued(longer)):
        assert observe(watch, body, linked=linked) is None


@linked
def test_concurrent_siblings_are_conversations_of_their_own(linked: bool) -> None:
    watch = PrefixWatch()
    assert observe(watch, agent(), linked=linked) is None
    siblings = [continued(agent(), "It is 42.", f"Look at part {part} of {part * 'x'}") for part in range(20)]
    for body in siblings:
        assert observe(watch, body, linked=linked) is None
    for body in siblings:
        assert observe(watch, continued(body), linked=linked) is None
    edited = continued(continued(siblings[7]))
    edited["messages"][0]["content"] += "!"
    found = observe(watch, edited, linked=linked)
    assert isinstance(found, Divergence)
    assert found.message == 0


def test_branches_do_not_know_each_other() -> None:
    watch = PrefixWatch()
    edited = continued(agent())
    edited["messages"][0]["content"] += "!"
    assert observe(watch, agent(), "one") is None
    assert observe(watch, edited, "other") is None
    assert isinstance(observe(watch, edited, "one"), Divergence)


@linked
def test_a_compacted_history_is_not_a_divergence_and_is_continued(linked: bool) -> None:
    watch = PrefixWatch()
    body = agent()
    for turn in range(8):
        body = continued(body, f"answer {turn}", f"question {turn}")
        assert observe(watch, body, linked=linked) is None
    short = {
        **body,
        "messages": [body["messages"][0], {"role": "user", "content": "So far…"}, *body["messages"][-2:]],
    }
    found = observe(watch, short, linked=linked)
    assert isinstance(found, Compaction)
    assert (found.messages_before, found.messages_after) == (19, 3)
    assert observe(watch, continued(short), linked=linked) is None


def test_key_order_counts_even_where_the_digests_agree() -> None:
    watch = PrefixWatch()
    later = continued(agent())
    later["tools"][0]["function"] = dict(reversed(later["tools"][0]["function"].items()))
    assert chain(later)[0] == chain(agent())[0]
    assert observe(watch, agent()) is None
    found = observe(watch, later)
    assert isinstance(found, Divergence)
    assert (found.cause, found.field) == (Cause.REORDERED_KEYS, "tools[0]")
    # From then on that order is the one in the cache.
    assert observe(watch, continued(later)) is None


def test_members_that_change_on_every_call_are_no_divergence() -> None:
    watch = PrefixWatch()
    body = agent()
    for seed in range(4):
        body = {"seed": seed, **continued(body, f"a{seed}", f"q{seed}"), "metadata": {"call": str(seed)}}
        assert observe(watch, body) is None
    body["tools"].reverse()
    found = observe(watch, body)
    assert isinstance(found, Divergence)
    assert found.cause is Cause.REORDERED_TOOLS


def test_a_stored_response_is_continued_by_its_lineage() -> None:
    watch = PrefixWatch()
    first = {"model": "m", "instructions": "Be brief.", "input": "What is it?"}
    then = {**first, "instructions": "Be long.", "input": "Why?", "previous_response_id": "resp_1"}
    for linked in (True, False):
        assert observe(watch, first, linked=linked) is None
        assert observe(watch, then, linked=linked) is None


def test_changed_instructions_of_a_responses_call() -> None:
    watch = PrefixWatch()
    items = [{"role": "user", "content": "What is it?"}]
    first = {"model": "m", "instructions": "It is 10:00. Be brief.", "input": items}
    answer = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It."}]}
    then = {**first, "instructions": "It is 10:05. Be brief.", "input": [*items, answer, *items]}
    assert observe(watch, first) is None
    found = observe(watch, then)
    assert isinstance(found, Divergence)
    assert (found.cause, found.where) == (Cause.TIMESTAMP, "instructions, byte 10")


def test_a_prompt_of_pieces_is_followed_too() -> None:
    watch = PrefixWatch()
    prompt = "".join(f"Fact {i} is that {i * 7 % 13} is so.\n" for i in range(2000))
    assert observe(watch, {"prompt": prompt}) is None
    assert observe(watch, {"prompt": prompt + "More.\n"}) is None
    found = observe(watch, {"prompt": prompt.replace("Fact 9 ", "Note 9 ") + "More.\nAnd more.\n"})
    assert isinstance(found, Divergence)
    assert (found.field, found.byte) == ("prompt", prompt.index("Fact 9 "))


def test_tokens_are_learned_from_counts() -> None:
    watch = PrefixWatch()
    assert watch.bytes_per_token == 4
    for count in (0, -5, 10**9, 1):
        watch.learn(1000, count)  # none of these can be a count of 1000 bytes
    assert watch.bytes_per_token == 4
    for _ in range(60):
        watch.learn(3000, 1000)
    assert watch.bytes_per_token == pytest.approx(3)
    for _ in range(60):
        watch.learn(4500, 900)
    assert watch.bytes_per_token == pytest.approx(5, rel=0.01)
    edited = continued(agent())
    edited["messages"][0]["content"] = "!" + edited["messages"][0]["content"]
    observe(watch, agent())
    found = observe(watch, edited)
    assert found.lost_tokens == round(found.lost_bytes / watch.bytes_per_token)


def test_memory_is_bounded_and_freed() -> None:
    watch = PrefixWatch(remembered_bytes=200_000)
    for index in range(300):
        body = {"model": "m", "messages": [{"role": "user", "content": f"{index}: {'x' * 5000}"}]}
        assert observe(watch, body, f"branch {index}") is None
        assert 0 < watch.held_bytes <= 200_000
    huge = {"model": "m", "messages": [{"role": "user", "content": "y" * 300_000}]}
    assert observe(watch, huge, "huge") is None
    assert watch.held_bytes <= 200_000
    # The newest branches are the ones that are still known.
    edited = {"model": "m", "messages": [{"role": "user", "content": f"299! {'x' * 5000}"}] * 2}
    assert isinstance(observe(watch, edited, "branch 299"), Divergence)
    for index in range(301):
        watch.forget(f"branch {index}")
    watch.forget("huge")
    watch.forget("never seen")
    assert watch.held_bytes == 0


def test_very_many_conversations_on_one_branch() -> None:
    watch = PrefixWatch()
    for index in range(600):
        assert observe(watch, {"messages": [{"role": "user", "content": f"{index * index} things"}]}) is None
    held = watch.held_bytes
    for index in range(600, 1200):
        assert observe(watch, {"messages": [{"role": "user", "content": f"{index * index} things"}]}) is None
    assert watch.held_bytes < held * 1.1


@given(st.binary(max_size=200))
def test_any_bytes_are_no_finding(data: bytes) -> None:
    watch = PrefixWatch()
    assert watch.observe("b", data) is None
    assert watch.observe("b", data) is None


@given(st.lists(bodies | json_values, max_size=4), st.booleans())
def test_any_json_is_read_or_passed_over(values: list[Any], linked: bool) -> None:
    watch = PrefixWatch()
    for value in values:
        data = json.dumps(value).encode()
        try:
            links = chain(value) if linked and isinstance(value, dict) else ()
        except UnreadableContext:
            links = ()
        found = watch.observe("b", data, links)
        assert found is None or isinstance(found, Divergence | Compaction)
        watch.learn(len(data), 10)


HOSTILE = [
    b"[" * 100_000,
    b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"messages":[1,2]}',
    b'{"messages":{"a":1}}',
    b'{"messages":[{"role":{},"content":{"a":[]},"tool_calls":7}]}',
    b'{"messages":[],"tools":5}',
    b'{"model":' + b"9" * 10_000 + b"}",
    b'{"prompt":[[1,2],[3]]}',
    b'{"prompt":[1,2,3]}',
    b'{"input":[{"type":[]}]}',
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"messages":[{"role":"user","content":"x","' + b"k" * 10_000 + b'":"v"}]}',
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_bodies_are_no_finding_and_no_error(data: bytes) -> None:
    watch = PrefixWatch()
    assert observe(watch, agent()) is None
    for _ in range(2):
        assert not isinstance(watch.observe("b", data), Divergence)
        # Nor if the chain of another body is told with it.
        assert not isinstance(watch.observe("c", data, chain(agent())), Divergence)
    assert observe(watch, continued(agent())) is None


@linked
@pytest.mark.parametrize("depth", [100, 400, 900])
def test_deeply_nested_tools_are_compared_or_passed_over(depth: int, linked: bool) -> None:
    def body(inmost: str) -> bytes:
        nested = '{"a":' * depth + f'"{inmost}"' + "}" * depth
        return f'{{"tools":[{nested}],"messages":[{{"role":"user","content":"What?"}}]}}'.encode()

    watch = PrefixWatch()
    for inmost in ("x", "y", "x"):
        data = body(inmost)
        try:
            links = chain(json.loads(data)) if linked else ()
        except (UnreadableContext, RecursionError):
            links = ()
        found = watch.observe("b", data, links)
        assert found is None or (isinstance(found, Divergence) and found.cause is Cause.CHANGED_TOOLS)


def test_names_out_of_a_body_are_not_repeated() -> None:
    watch = PrefixWatch()
    body = agent()
    body["messages"][1]["the secret\nname"] = "one"
    later = continued(copy.deepcopy(body))
    later["messages"][1]["the secret\nname"] = "two"
    observe(watch, body)
    found = observe(watch, later)
    assert found.field == "other"
    assert "secret" not in repr(found) + found.key


def test_threads_share_a_watch() -> None:
    watch = PrefixWatch()
    found: list[Any] = []

    def run(name: str) -> None:
        body = agent()
        for turn in range(20):
            body = continued(body, f"{name} {turn}", "and then?")
            if turn % 5 == 4:
                body["messages"][0]["content"] += "!"
            found.append(observe(watch, body, name))

    threads = [threading.Thread(target=run, args=(f"branch {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, Divergence) for one in found) == 16
    assert len(found) == 80


def asking(text: str) -> Body:
    return {"messages": [{"role": "system", "content": text}, {"role": "user", "content": "and?"}]}


def test_how_much_is_read_may_be_bounded() -> None:
    def told(watch: PrefixWatch, size: int, turns: int = 200) -> list[int]:
        said = "x" * size
        bodies = (asking(f"It is 10:{turn:03}. {said}") for turn in range(turns))
        return [turn for turn, body in enumerate(bodies) if observe(watch, body) is not None]

    assert told(PrefixWatch(), 20_000) == list(range(1, 200))
    some = told(PrefixWatch(read_share=0.25), 20_000)
    assert some[:10] == list(range(1, 11))  # those that come first
    assert 20 < len(some) < 100
    assert any(turn > 190 for turn in some)  # and later ones, now and then
    # What is larger than the allowance is read too.
    assert told(PrefixWatch(read_share=0.25), 1_500_000, turns=4) == [1]


def test_what_was_read_on_branches_is_forgotten_with_them() -> None:
    watch = PrefixWatch(read_share=0.25)
    for number in range(5):
        for text in ("aaaa", "bbbb"):
            observe(watch, asking(text), branch=f"b{number}")
        watch.forget(f"b{number}")
    assert not watch._allowances
