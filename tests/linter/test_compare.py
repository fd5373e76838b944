"""Where two prompts part, and why."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.hints import chain
from llmd_agents.linter import Cause, Compaction, Divergence, PrefixWatch, Relation, compare, read_prompt

from .conversations import (
    TIMES,
    Body,
    agent,
    continued,
    conversations,
    encoded,
    first_difference,
)

Edit = Callable[[Body], Any]


def diverged(earlier: Body, later: Body) -> Divergence:
    found = compare(read_prompt(earlier), read_prompt(later))
    assert isinstance(found, Divergence)
    return found


def rearranged(body: Body) -> None:
    definition = body["tools"][1]["function"]
    definition["parameters"] = dict(reversed(definition["parameters"].items()))


def message(index: int, **changes: Any) -> Edit:
    return lambda body: body["messages"][index].update(changes)


def arguments(text: str) -> Edit:
    return lambda body: body["messages"][2]["tool_calls"][0]["function"].update(arguments=text)


SYSTEM = agent()["messages"][0]["content"]
RESULT = agent()["messages"][3]["content"]


@pytest.mark.parametrize(
    ("edit", "cause", "where"),
    [
        (message(0, content=SYSTEM.replace(*TIMES)), Cause.TIMESTAMP, "message 0, byte 36"),
        (message(0, content="Hello! " + SYSTEM), Cause.EDITED_TURN, "message 0, byte 0"),
        (lambda body: body["tools"].reverse(), Cause.REORDERED_TOOLS, "tools[0], byte 39"),
        (rearranged, Cause.REORDERED_KEYS, "tools[1], byte 75"),
        (lambda body: body["tools"].pop(), Cause.CHANGED_TOOLS, "tools[1], byte 0"),
        (lambda body: body["tools"].append({"name": "c"}), Cause.CHANGED_TOOLS, "tools[2], byte 0"),
        (lambda body: body.update(model="n"), Cause.CHANGED_MODEL, "model, byte 0"),
        (lambda body: body.update(tool_choice="none"), Cause.CHANGED_ARGUMENTS, "tool_choice, byte 0"),
        (
            lambda body: body.update(reasoning_effort="low"),
            Cause.CHANGED_ARGUMENTS,
            "reasoning_effort, byte 0",
        ),
        (message(1, content="What is the question?"), Cause.EDITED_TURN, "message 1, byte 12"),
        (
            lambda body: body["messages"][2].pop("reasoning_content"),
            Cause.DROPPED_REASONING,
            "message 2, reasoning_content, byte 0",
        ),
        (
            arguments('{"y":2,"x":"1"}'),
            Cause.REORDERED_KEYS,
            "message 2, tool_calls[0].function.arguments, byte 2",
        ),
        (
            arguments('{"x": "1", "y": 2}'),
            Cause.REFORMATTED,
            "message 2, tool_calls[0].function.arguments, byte 5",
        ),
        (
            lambda body: body["messages"][2]["tool_calls"][0].update(id="call_8f3a9"),
            Cause.RANDOM_ID,
            "message 2, tool_calls[0].id, byte 1",
        ),
        (message(3, content="[cut] and its end"), Cause.SHORTENED, "message 3, byte 0"),
        (message(3, content=RESULT.rstrip() + "\n"), Cause.REFORMATTED, f"message 3, byte {len(RESULT)}"),
        (lambda body: body["messages"].pop(1), Cause.DROPPED_MESSAGE, "message 1, byte 0"),
        (
            lambda body: body["messages"].insert(1, {"role": "system", "content": "Mind!"}),
            Cause.INSERTED_MESSAGE,
            "message 1, byte 0",
        ),
        (
            lambda body: body["messages"].insert(1, body["messages"].pop(3)),
            Cause.REORDERED_MESSAGES,
            "message 1, byte 0",
        ),
    ],
)
def test_each_cause_is_told_with_its_place(edit: Edit, cause: Cause, where: str) -> None:
    earlier = agent()
    later = continued(earlier)
    edit(later)
    # A further turn, so that something is lost behind the last message, too.
    found = diverged(continued(earlier) if cause is Cause.REFORMATTED else earlier, continued(later))
    assert (found.cause, found.where) == (cause, where)
    assert found.lost_bytes > 0
    assert found.lost_tokens == max(round(found.lost_bytes / 4), 1)


def test_what_was_kept_and_what_is_lost() -> None:
    earlier: Body = {
        "model": "m",
        "messages": [
            {"role": "system", "content": f"At {TIMES[0]} we begin."},
            {"role": "user", "content": "u" * 100},
        ],
    }
    later = continued(earlier)
    later["messages"][0]["content"] = f"At {TIMES[1]} we begin."
    found = diverged(earlier, later)
    same = len("At 2026-11-21T10:0")
    assert found.kept_bytes == same
    # The rest of the system prompt, and the user's message behind it; not what the earlier prompt never had.
    assert found.lost_bytes == len(earlier["messages"][0]["content"]) - same + 100


def test_reasoning_in_other_places() -> None:
    inline: Body = {
        "messages": [
            {"role": "user", "content": "Why?"},
            {
                "role": "assistant",
                "content": "<think>Because of that</think>Therefore, and for nothing else.",
            },
            {"role": "user", "content": "Really?"},
        ]
    }
    later = continued(inline)
    later["messages"][1]["content"] = "Therefore, and for nothing else."
    assert diverged(inline, later).cause is Cause.DROPPED_REASONING
    items: Body = {
        "input": [
            {"role": "user", "content": "Why?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call_output", "call_id": "c1", "output": "nothing"},
        ]
    }
    later = copy.deepcopy(items)
    later["input"].pop(1)
    later["input"].append({"role": "user", "content": "Go on."})
    found = diverged(items, later)
    assert (found.cause, found.message) == (Cause.DROPPED_REASONING, 1)
    blocks: Body = {
        "system": "Think.",
        "messages": [
            {"role": "user", "content": "Why?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1, "b": 2}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "nothing"}]},
        ],
    }
    later = continued(blocks)
    later["messages"][1]["content"] = blocks["messages"][1]["content"][1:]
    found = diverged(blocks, later)
    assert (found.cause, found.message) == (Cause.DROPPED_REASONING, 1)
    later = continued(blocks)
    later["messages"][1]["content"][1]["input"] = {"b": 2, "a": 1}
    found = diverged(blocks, later)
    assert (found.cause, found.field) == (Cause.REORDERED_KEYS, "content[1].input")


def test_plain_prompts_are_read_as_one_text() -> None:
    head = f"Today is Monday.\n{'Some facts that all need.' * 20}\n"
    earlier = {"prompt": head + "Q: one\nA:"}
    assert (
        compare(read_prompt(earlier), read_prompt({"prompt": head + "Q: one\nA: 1\nQ: two\nA:"}))
        is Relation.EXTENDS
    )
    assert (
        compare(read_prompt(earlier), read_prompt({"prompt": head + "Q: another one\nA:"}))
        is Relation.UNRELATED
    )
    found = diverged(earlier, {"prompt": head.replace("Monday", "Tuesday") + "Q: one\nA: 1\nQ: two\nA:"})
    assert (found.cause, found.where) == (Cause.TIMESTAMP, "prompt, byte 9")
    later = {"prompt": head.replace("all need", "none need", 1) + "Q: one\nA: 1\nQ: two\nA:"}
    assert diverged(earlier, later).where == f"prompt, byte {head.index('all need')}"


UNCHANGED: list[Edit] = [
    lambda body: None,
    lambda body: body.update(temperature=0.5, tool_choice="auto", user="u", stream=True),
    lambda body: body["messages"][0].update(
        content=[{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    ),
    lambda body: body["tools"][1].update(cache_control={"type": "ephemeral"}),
    lambda body: body["messages"][1].update(name=None, tool_calls=None),
    lambda body: body["messages"].__setitem__(1, dict(reversed(body["messages"][1].items()))),
]


@pytest.mark.parametrize("edit", UNCHANGED)
def test_what_no_template_shows_is_no_divergence(edit: Edit) -> None:
    later = continued(agent())
    edit(later)
    assert compare(read_prompt(agent()), read_prompt(later)) is Relation.EXTENDS


def test_going_back_and_going_another_way_are_no_divergences() -> None:
    long = continued(agent())
    assert compare(read_prompt(long), read_prompt(agent())) is Relation.WITHIN
    other = continued(agent(), answer="It is 41.", question="How do you know that?")
    other_first = copy.deepcopy(agent())
    other_first["messages"][1:] = [{"role": "user", "content": "Sing a song about the sea."}]
    assert compare(read_prompt(agent()), read_prompt(other_first)) is Relation.UNRELATED
    assert compare(read_prompt(long), read_prompt(other)) is Relation.UNRELATED


def test_a_second_opinion_of_another_model_is_no_divergence() -> None:
    other = {**agent(), "model": "n"}
    assert compare(read_prompt(agent()), read_prompt(other)) is Relation.UNRELATED


def test_a_history_that_became_much_shorter_was_compacted() -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} of many"} for i in range(20)]
    system = {"role": "system", "content": "Be brief."}
    summary = {"role": "user", "content": "So far, this and that was said."}
    earlier = {"messages": [system, *turns]}
    found = compare(
        read_prompt(earlier), read_prompt({"messages": [system, summary, *turns[-4:]]}), branch="b"
    )
    assert found == Compaction("b", "", 20, 5, 9, sum(len(turn["content"]) for turn in turns[:-4]))
    # A window that slides by a few messages on every turn breaks the cache on every turn.
    found = compare(read_prompt(earlier), read_prompt({"messages": [system, *turns[4:], summary]}))
    assert isinstance(found, Divergence)
    assert (found.cause, found.what) == (Cause.DROPPED_MESSAGE, "4 messages of the history were dropped")


def observed(earlier: Body, later: Body, *, linked: bool) -> Any:
    watch = PrefixWatch()
    for body in (earlier, later):
        found = watch.observe("b", encoded(body), chain(body) if linked else ())
    return found


@given(conversations(), st.booleans())
def test_a_conversation_that_extends_itself_has_no_finding(body: Body, linked: bool) -> None:
    assert observed(body, continued(body), linked=linked) is None


@given(conversations(), st.data(), st.booleans())
def test_any_edited_message_is_found_at_its_byte(body: Body, data: st.DataObject, linked: bool) -> None:
    later = continued(body)
    index = data.draw(st.integers(0, len(body["messages"]) - 2))
    text = later["messages"][index]["content"]
    at = data.draw(st.integers(0, len(text)))
    edited = text[:at] + data.draw(st.text(min_size=1, max_size=30)) + text[at:]
    later["messages"][index]["content"] = edited
    found = observed(body, later, linked=linked)
    assert isinstance(found, Divergence)
    assert (found.message, found.field, found.byte) == (index, "content", first_difference(text, edited))
    assert found.lost_bytes > 0
    assert found.excerpt is not None
    assert found.excerpt.before[: found.excerpt.caret] == found.excerpt.after[: found.excerpt.caret]


@given(conversations(), st.data(), st.booleans())
def test_any_other_edit_is_found_at_its_message(body: Body, data: st.DataObject, linked: bool) -> None:
    later = continued(body)
    last = len(body["messages"]) - 2
    kind = data.draw(
        st.sampled_from(["time", "reasoning", "drop", "insert", "tools", "keys", "model", "choice"])
    )
    index: int | None = data.draw(st.integers(1, last))
    assert index is not None
    if kind == "time":
        index = 0
        later["messages"][0]["content"] = (
            later["messages"][0]["content"].removesuffix(f"{TIMES[0]}.") + f"{TIMES[1]}."
        )
        expected = Cause.TIMESTAMP
    elif kind == "reasoning":
        index = 2
        del later["messages"][2]["reasoning_content"]
        expected = Cause.DROPPED_REASONING
    elif kind == "drop":
        del later["messages"][index]
        expected = Cause.DROPPED_MESSAGE
    elif kind == "insert":
        later["messages"].insert(index, {"role": "system", "content": "Mind!"})
        expected = Cause.INSERTED_MESSAGE
    elif kind == "tools":
        index = None
        later["tools"] = data.draw(
            st.permutations(later["tools"]).filter(lambda tools: tools != body["tools"])
        )
        expected = Cause.REORDERED_TOOLS
    elif kind == "keys":
        index = None
        at = data.draw(st.integers(0, 2))
        later["tools"][at] = dict(reversed(later["tools"][at].items()))
        expected = Cause.REORDERED_KEYS
    elif kind == "model":
        index = None
        later["model"] = "n"
        expected = Cause.CHANGED_MODEL
    else:
        index = None
        later["tool_choice"] = "none"
        expected = Cause.CHANGED_ARGUMENTS
    found = observed(body, later, linked=linked)
    assert isinstance(found, Divergence)
    assert (found.cause, found.message) == (expected, index)
