import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from llmd_agents.hints import UnreadableContext, chain, lineage_digest
from tests.strategies import bodies, json_values, messages

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize(
    "vector", json.loads((VECTORS / "digests.json").read_text()), ids=lambda vector: str(vector["name"])
)
def test_golden_vectors(vector: dict[str, Any]) -> None:
    links = chain(vector["body"])
    assert [link.digest.hex() for link in links] == vector["digests"]
    assert [link.size for link in links] == vector["sizes"]


def test_vector_by_hand() -> None:
    head = xxh3_128_digest(b"llmd-agents chain 1\nl1:m0:deele")
    first = xxh3_128_digest(head + b"d7:content5:Hello4:role4:usere")
    links = chain({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    assert [link.digest for link in links] == [head, first]


@given(bodies)
def test_same_body_same_chain(body: dict[str, Any]) -> None:
    copied = json.loads(json.dumps(body, indent=2, sort_keys=True))
    assert chain(copied) == chain(body)


@given(bodies, messages)
def test_a_further_message_only_adds_a_link(body: dict[str, Any], message: dict[str, Any]) -> None:
    longer = {**body, "messages": [*body["messages"], message]}
    assert chain(longer)[:-1] == chain(body)


@given(bodies, st.data())
def test_a_changed_message_changes_every_later_digest(body: dict[str, Any], data: st.DataObject) -> None:
    if not body["messages"]:
        return
    index = data.draw(st.integers(0, len(body["messages"]) - 1))
    changed = [dict(message) for message in body["messages"]]
    changed[index]["added"] = "x"
    before, after = chain(body), chain({**body, "messages": changed})
    assert before[: index + 1] == after[: index + 1]
    assert all(a.digest != b.digest for a, b in zip(before[index + 1 :], after[index + 1 :], strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"tools": [{"type": "function"}]},
        {"chat_template_kwargs": {"thinking": True}},
        {"reasoning_effort": "low"},
        {"tool_choice": "none"},
        {"documents": [{"text": "x"}]},
        {"truncate_prompt_tokens": 100},
    ],
)
def test_the_head_holds_what_precedes_the_messages(change: dict[str, Any]) -> None:
    body = {"model": "m", "messages": []}
    assert chain({**body, **change})[0].digest != chain(body)[0].digest


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.5}, {"max_tokens": 5}, {"stream": True}, {"tool_choice": "auto"}, {"tools": None}],
)
def test_the_head_holds_nothing_else(change: dict[str, Any]) -> None:
    body = {"model": "m", "messages": []}
    assert chain({**body, **change}) == chain(body)


def test_adapters_are_told_apart() -> None:
    body = {"model": "m", "messages": []}
    assert chain(body, adapter="lora")[0] != chain(body)[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": "text"}, "messages is not an array"),
        ({"messages": ["text"]}, r"messages\[0\] is not an object"),
        ({"tools": {}}, "tools is not an array"),
        ({"messages": [{"role": "user", "content": {1, 2}}]}, "set is not a JSON type"),
        ({"prompt": ["one", "two"]}, "prompt holds several prompts"),
        ({"prompt": [[1], [2]]}, "prompt holds several prompts"),
        ({"prompt": ["one", 2]}, "prompt holds several prompts"),
        ({"prompt": [[["deeper"]]]}, "prompt holds what is no token id"),
        ({"prompt": [1.5]}, "prompt holds what is no token id"),
        ({"prompt": [True]}, "prompt holds what is no token id"),
        ({"prompt": [-1]}, "prompt holds what is no token id"),
        ({"prompt": [1 << 32]}, "prompt holds what is no token id"),
        ({"prompt": {"id": "template"}}, "prompt is neither a string nor an array"),
        ({"prompt": "x", "prompt_embeds": "AAAA"}, "prompt_embeds cannot be read"),
        ({"input": ["text"]}, r"input\[0\] is not an object"),
        ({"input": {"role": "user"}}, "input is not an array"),
        ({"input": "x", "instructions": ["y"]}, "instructions is not a string"),
        ({"input": "x", "previous_response_id": 7}, "previous_response_id is not a string"),
        ({"input": "x", "conversation": "conv_1"}, "conversation names a context that only the server knows"),
    ],
)
def test_says_what_is_wrong(body: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableContext, match=message):
        chain(body)


def test_nesting_without_end_is_refused() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnreadableContext):
        chain({"messages": [{"role": "user", "content": deep}]})


def roles(body: dict[str, Any]) -> list[str | None]:
    return [link.role for link in chain(body)]


def test_a_raw_prompt_by_hand() -> None:
    head = xxh3_128_digest(b"llmd-agents chain 1\nl1:m0:deele")
    text = xxh3_128_digest(head + b"d6:prompt5:Helloe")
    tokens = xxh3_128_digest(head + b"d6:tokens8:\0\0\0\x07\0\1\0\0e")
    assert [link.digest for link in chain({"model": "m", "prompt": "Hello"})] == [head, text]
    assert [link.digest for link in chain({"model": "m", "prompt": [7, 65536]})] == [head, tokens]


def test_lineage_by_hand() -> None:
    head = xxh3_128_digest(b"llmd-agents chain 1\nl1:m0:deele")
    told = xxh3_128_digest(head + b"d7:content4:Goal4:role6:systeme")
    previous = xxh3_128_digest(told + b"d20:previous_response_id6:resp_1e")
    said = xxh3_128_digest(previous + b"d7:content2:On4:role4:usere")
    body = {"model": "m", "instructions": "Goal", "previous_response_id": "resp_1", "input": "On"}
    assert [link.digest for link in chain(body)] == [head, told, previous, said]
    first = {"model": "m", "instructions": "Goal", "input": [{"role": "user", "content": "Begin"}]}
    assert lineage_digest(first, "resp_1") == previous
    assert lineage_digest({**first, "instructions": "Other"}, "resp_1") != previous


@pytest.mark.parametrize("instructions", ["Be brief.", None])
@given(response_id=st.text(), previous=st.none() | st.text())
def test_a_response_is_named_alike_by_its_call_and_by_the_next(
    instructions: str | None, response_id: str, previous: str | None
) -> None:
    body = {
        "model": "m",
        "reasoning": {"effort": "low"},
        "prompt": {"id": "template"},
        "tools": [{"type": "web_search"}],
        "instructions": instructions,
    }
    named = lineage_digest({**body, "previous_response_id": previous, "input": "Hi"}, response_id)
    links = chain({**body, "previous_response_id": response_id, "input": "On"})
    assert links[-2].digest == named
    assert (links[-2].role, links[-1].role) == ("previous", "user")


@given(prompt=st.text(), more=st.text())
def test_a_raw_prompt_that_goes_on_shares_all_whole_pieces(prompt: str, more: str) -> None:
    prompt *= 3000
    before, after = chain({"prompt": prompt}), chain({"prompt": prompt + more})
    whole = len(prompt.encode()) // 8192
    assert after[: whole + 1] == before[: whole + 1]


def test_an_array_of_one_prompt_is_that_prompt() -> None:
    assert chain({"prompt": ["Hello"]}) == chain({"prompt": "Hello"})
    assert chain({"prompt": [[1, 2]]}) == chain({"prompt": [1, 2]})
    assert chain({"prompt": []}) == chain({"prompt": ""}) == chain({})


plain = messages.filter(lambda message: not isinstance(message["content"], list))


@given(st.lists(plain, max_size=5), st.none() | st.text(), st.booleans())
def test_equal_context_has_equal_digests_on_either_route(
    said: list[dict[str, Any]], instructions: str | None, typed: bool
) -> None:
    items = [
        {**message, "type": "message", "id": "m", "status": "completed"} if typed else message
        for message in said
    ]
    system = [] if instructions is None else [{"role": "system", "content": instructions}]
    as_items = {"model": "m", "instructions": instructions, "reasoning": {"effort": "low"}, "input": items}
    as_chat = {"model": "m", "reasoning_effort": "low", "messages": system + said}
    assert chain(as_items) == chain(as_chat)


@given(text=st.text(), kind=st.sampled_from(["input_text", "output_text"]))
def test_one_text_part_is_its_text(text: str, kind: str) -> None:
    part: Any = {
        "type": kind,
        "text": text,
        "annotations": [],
        "logprobs": None,
        "cache_control": {"type": "x"},
    }
    assert chain({"input": [{"role": "user", "content": [part]}]}) == chain({"input": text})
    two = [{"role": "user", "content": [{"type": "text", "text": text}] * 2}]
    assert chain({"input": [{"role": "user", "content": [part, part]}]}) == chain({"messages": two})


def test_roles() -> None:
    kinds = [
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call_output",
        "web_search_call",
    ]
    items: list[Any] = [{"type": kind} for kind in [*kinds, "item_reference", "new", 3]]
    items += [{"id": "msg_1"}, {"role": "developer", "content": "x"}]
    assert roles({"instructions": "x", "previous_response_id": "r", "input": items}) == [
        None, "system", "previous",
        "reasoning", "assistant", "tool", "tool", "assistant", "", "", "", "", "developer",
    ]  # fmt: skip
    assert roles({"prompt": "x"}) == [None, "prompt"]


def test_what_the_server_makes_up_does_not_count() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    shown = {**call, "id": "fc_1", "status": "completed"}
    assert chain({"input": [shown]}) == chain({"input": [call]})
    assert chain({"input": [{**call, "call_id": "d"}]}) != chain({"input": [call]})
    references = [{"input": [{"type": "item_reference", "id": each}]} for each in ("a", "b")]
    assert chain(references[0]) != chain(references[1])


anything = st.dictionaries(
    st.sampled_from(["input", "instructions", "previous_response_id", "prompt", "messages", "tools", "model",
                     "reasoning", "conversation", "suffix"]),
    json_values
    | st.lists(st.dictionaries(st.sampled_from(["type", "role", "content", "id", "output"]), json_values)),
)  # fmt: skip


@given(anything)
def test_any_body_has_a_chain_or_says_why_not(body: dict[str, Any]) -> None:
    try:
        links = chain(body)
    except UnreadableContext:
        return
    assert links == chain(json.loads(json.dumps(body)))
    assert all(len(link.digest) == 16 and link.size >= 0 for link in links)
