from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_agents.engine import ReplyText, UnrenderablePrompt, render
from llmd_agents.engine.tokenizer import BYTES_PER_TOKEN
from llmd_agents.hints import chain

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hi!"}


def test_prompt_is_rendered_token_by_token() -> None:
    prompt = render({"messages": [SYSTEM, USER]})

    assert prompt.tokens == (
        b"\xf5sysBe brief.\xff\xff\xff\xf5end"  # 2 + ceil(9 / 4)
        b"\xf5usrHi!\xff\xf5end"
        b"\xf5ast"
    )
    assert prompt.ends == (0, 5, 8)
    assert len(prompt) == 9


def test_tools_come_first_unless_they_are_switched_off() -> None:
    body: dict[str, Any] = {"messages": [USER], "tools": [{"type": "function"}]}

    tools = b"d4:type8:functione"
    assert render(body).tokens.startswith(b"\xf5tls" + tools + b"\xff\xff\xf5end\xf5usr")
    assert render(body).ends == (7, 10)
    assert render({**body, "tool_choice": "none"}) == render({"messages": [USER]})
    assert render({**body, "tools": []}) == render({"messages": [USER]})


def test_what_a_message_holds_besides_text_follows_it() -> None:
    call: dict[str, Any] = {"role": "assistant", "content": "Look", "tool_calls": [], "name": None}

    assert render({"messages": [call]}).tokens == (
        b"\xf5astLook" + b"d10:tool_callslee\xff\xff\xff" + b"\xf5end" + b"\xf5ast"
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": None}, b""),
        ({"role": "user"}, b""),
        ({"role": "user", "content": "abcd", "cache_control": {"type": "ephemeral"}}, b"abcd"),
        ({"role": "user", "content": []}, b"d7:contentlee\xff\xff\xff"),
        ({"role": "user", "content": "\ud800"}, b"\xed\xa0\x80\xff"),
    ],
)
def test_contents(message: dict[str, Any], expected: bytes) -> None:
    assert render({"messages": [message]}).tokens == b"\xf5usr" + expected + b"\xf5end\xf5ast"


def test_cache_marks_in_parts_are_no_part_of_the_prompt() -> None:
    plain = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    marked = {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {}}]}

    assert render({"messages": [plain]}) == render({"messages": [marked]})


def test_generation_prompt_can_be_left_out_or_replaced_by_an_open_message() -> None:
    closed = b"\xf5usrHi!\xff\xf5end"

    assert render({"messages": [USER], "add_generation_prompt": False}).tokens == closed
    opened = render({"messages": [USER], "continue_final_message": True})
    assert opened.tokens == closed[:-BYTES_PER_TOKEN]
    assert opened.ends == (0, 2)


@pytest.mark.parametrize(
    "flags",
    [
        {"continue_final_message": True, "add_generation_prompt": True},
        {"continue_final_message": "yes"},
    ],
)
def test_contradictory_or_ill_typed_flags_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(UnrenderablePrompt, match="continue_final_message") as refused:
        render({"messages": [USER], **flags})
    assert refused.value.param == "continue_final_message"


@given(st.text(), st.text())
def test_plain_messages_follow_the_stated_rule(first: str, second: str) -> None:
    body = {"messages": [{"role": "user", "content": first}, {"role": "weird", "content": second}]}
    prompt = render(body)

    sizes = [2 + -(-len(text.encode()) // 4) for text in (first, second)]
    assert prompt.ends == (0, sizes[0], sum(sizes))
    assert len(prompt) == sum(sizes) + 1
    assert prompt.tokens.count(b"\xf5") == 5
    assert len(prompt.ends) == len(chain(body))


def test_reply_returns_as_the_next_turns_prefix() -> None:
    first = render({"messages": [USER]})
    text = ReplyText.to(first.tokens).tokens(7)
    follow_up = [USER, {"role": "assistant", "content": text.decode()}, USER]

    assert render({"messages": follow_up}).tokens.startswith(first.tokens + text)


def test_reply_depends_on_the_prompt_alone() -> None:
    reply = ReplyText.to(b"abcd")

    assert reply.tokens(160) == ReplyText.to(b"abcd").tokens(160)
    assert reply.tokens(160) != ReplyText.to(b"abce").tokens(160)
    assert reply.tokens(160).startswith(reply.tokens(3))
    assert all(word.isalpha() and len(word) == 3 for word in reply.tokens(160).decode().split())
    assert 32 <= reply.natural_length <= 160
