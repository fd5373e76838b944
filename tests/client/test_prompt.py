"""Reading a prompt piecewise gives what reading it whole gives."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.client import prompt as prompt_module
from llmd_agents.client.known_context import KnownContext
from llmd_agents.client.prompt import Prompt, read_prompt
from llmd_agents.hints import chain, lineage_digest


@pytest.fixture(scope="module", autouse=True)
def even_short_bodies_in_part() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_module, "SHORT_BYTES", 0)
        yield


texts = st.text(max_size=40) | st.sampled_from(['","messages":[', "]}", '\\"', "[{", "é\n"])
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts}
)
items = messages | st.fixed_dictionaries(
    {"type": st.just("function_call_output"), "call_id": texts, "output": texts}
)
options = st.dictionaries(
    st.sampled_from(["model", "temperature", "stream", "metadata", "reasoning_effort"]), texts, max_size=3
).map(lambda found: {**found, "tools": [{"type": "function", "function": {"name": "f"}}]})


def compact(body: Any) -> bytes:
    """As openai's package writes it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


writers = st.sampled_from(
    [
        compact,
        compact,
        compact,
        lambda body: json.dumps(body).encode(),
        lambda body: json.dumps(body, indent=1).encode(),
        lambda body: compact(dict(reversed(body.items()))),
        lambda body: compact({"metadata": {"messages": [{"role": "user"}]}, **body}),
        lambda body: json.dumps(dict(reversed(body.items()))).encode(),
    ]
)


@given(
    turns=st.lists(
        st.tuples(st.lists(messages, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=6
    ),
    option=options,
    other=options,
    write=writers,
)
def test_a_conversation_read_turn_by_turn_has_the_chain_of_each_turn(
    turns: list[tuple[list[Any], bool]], option: dict[str, Any], other: dict[str, Any], write: Any
) -> None:
    said: list[Any] = []
    known: list[Prompt] = []
    for more, changed in turns:
        said = [*said, *more]
        body = {"messages": said, **(other if changed else option)}
        content = write(body)
        try:
            content.decode()
        except UnicodeDecodeError:
            return  # no JSON
        prompt = read_prompt(content, known)
        assert prompt.links == chain(json.loads(content))
        assert list(prompt.new_items())[-1] == (prompt.links[-1], json.loads(content)["messages"][-1])
        known.insert(0, prompt)


@given(said=st.lists(items, max_size=5), more=st.lists(items, max_size=3), instructions=st.none() | texts)
def test_items_of_the_responses_api_are_read_piecewise_too(
    said: list[Any], more: list[Any], instructions: str | None
) -> None:
    known: list[Prompt] = []
    for given_items in (said, [*said, *more]):
        body = {"input": given_items, "instructions": instructions, "previous_response_id": "resp_1"}
        prompt = read_prompt(compact(body), known)
        assert prompt.links == chain(body)
        known.insert(0, prompt)
    assert known[0].links[: len(known[1].links)] == known[1].links


def test_a_short_body_is_parsed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}] * 3, "model": "m"}
    with monkeypatch.context() as patch:
        patch.setattr(prompt_module, "SHORT_BYTES", len(compact(body)))
        prompt = read_prompt(compact(body), [read_prompt(compact(body))])
    assert prompt.links == chain(body)
    assert (prompt.fresh, len(prompt.items)) == (0, 3)


def test_only_what_is_new_is_parsed() -> None:
    said = [{"role": "user", "content": "hello"}] * 5
    first = read_prompt(compact({"messages": said, "model": "m"}))
    second = read_prompt(
        compact({"messages": [*said, {"role": "user", "content": "more"}], "model": "m"}), [first]
    )
    assert len(second.items) == 1
    assert second.fresh == len(first.links)
    assert second.model == "m"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "a"}], "model": "other"},
        {"messages": [{"role": "user", "content": "a"}], "model": "m", "tools": [{"type": "x"}]},
        {"messages": [{"role": "user", "content": "b"}], "model": "m"},
    ],
)
def test_what_does_not_extend_the_earlier_prompt_is_read_anew(body: Any) -> None:
    first = read_prompt(compact({"messages": [{"role": "user", "content": "a"}], "model": "m"}))
    prompt = read_prompt(compact(body), [first])
    assert prompt.links == chain(body)
    assert prompt.links[-1] != first.links[-1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"messages":[',
        b'{"messages":[{}]',
        b'{"messages":[{}]}x',
        b'{"messages":[1]}',
        b'{"messages":[{}],"messages":7}',
        b'{"messages":[{}],"tools":7}',
        b'{"model":"m",,"messages":[{}]}',
        b'{"model":"m" "messages":[{}]}',
        b'["messages":[{}]}',
        b'{"input":[7]}',
        b'{"messages":[' + b"[" * 100_000,
        b'{"messages":[\xff]}',
    ],
)
def test_what_is_no_prompt_is_refused(content: bytes) -> None:
    known = read_prompt(compact({"messages": [{}], "model": "m"}))
    with pytest.raises(ValueError):  # noqa: PT011  (json's, or ours)
        read_prompt(content, [known])


def test_a_list_given_twice_counts_as_json_reads_it() -> None:
    content = b'{"messages":[{"role":"user","content":"a"}],"messages":[{"role":"user","content":"b"}]}'
    assert read_prompt(content).links == chain(json.loads(content))


def test_a_raw_prompt_has_pieces_as_items() -> None:
    prompt = read_prompt(b'{"model":"m","prompt":"hello"}')
    assert prompt.links == chain({"model": "m", "prompt": "hello"})
    assert prompt.model == "m"


@pytest.mark.parametrize("instructions", [None, "Be brief."])
@pytest.mark.parametrize("previous", [None, "resp_1"])
@pytest.mark.parametrize("given", ["hello", [{"role": "user", "content": "hello"}]])
def test_the_next_call_may_name_this_one(instructions: str | None, previous: str | None, given: Any) -> None:
    body = {"model": "m", "instructions": instructions, "previous_response_id": previous, "input": given}
    assert read_prompt(compact(body)).lineage("resp_2") == lineage_digest(body, "resp_2")


def test_what_is_remembered_of_a_prompt_holds_no_messages() -> None:
    context = KnownContext()
    said = [{"role": "user", "content": "a" * 100_000}, {"role": "user", "content": "b"}]
    context.note_prompt(read_prompt(compact({"messages": said[:1]})))
    (kept,) = context.prompts()
    assert not kept.items
    longer = read_prompt(compact({"messages": said}), context.prompts())
    assert [item for _, item in longer.new_items()] == said[1:]
    assert longer.links == chain({"messages": said})
