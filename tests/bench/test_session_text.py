"""Text made for recorded prompts, rendered by the engine's tokenizer and compared block for block."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_agents.bench import ChatPrompt, CodingSession, SessionText, read_coding_session
from llmd_agents.engine import render
from llmd_agents.hints import chain

BLOCK = 8


def tokens_of(prompt: ChatPrompt) -> bytes:
    return render({"model": "m", "messages": prompt.messages, **prompt.extra_body}).tokens


def check_blocks(prompts: list[tuple[tuple[int, ...], bytes]], block_size: int) -> None:
    """Checks that rendered blocks are equal exactly where the recorded ids are, as prefixes."""
    names: dict[tuple[Any, bytes], int] = {}
    recorded: dict[tuple[int, ...], int] = {}
    for blocks, data in prompts:
        before = -1
        for index in range(len(blocks)):
            content = data[index * block_size * 4 : (index + 1) * block_size * 4]
            before = names.setdefault((before, content), len(names))
            assert recorded.setdefault(blocks[: index + 1], before) == before
    assert len(names) == len(recorded)


@st.composite
def prefix_trees(draw: st.DrawFn) -> list[tuple[tuple[int, ...], int, int]]:
    """Prompts as (block ids, tokens, reply tokens): each extends, cuts or forks an earlier one."""
    prompts: list[tuple[tuple[int, ...], int, int]] = []
    fresh = 0
    for _ in range(draw(st.integers(1, 12))):
        earlier = draw(st.sampled_from(prompts))[0] if prompts else ()
        kept = draw(st.integers(0, len(earlier)))
        added = draw(st.integers(0, 4))
        blocks = (*earlier[:kept], *range(fresh, fresh + added))
        fresh += added
        tokens = len(blocks) * BLOCK + draw(st.integers(0 if blocks else 1, BLOCK - 1))
        prompts.append((blocks, tokens, draw(st.integers(0, 30))))
    return prompts


@settings(max_examples=300)
@given(prefix_trees(), st.integers(0, 20))
def test_any_prefix_tree(prompts: list[tuple[tuple[int, ...], int, int]], head: int) -> None:
    text = SessionText("s", BLOCK)
    rendered = []
    following = [blocks for blocks, _, _ in prompts[1:]] + [()]
    for (blocks, tokens, reply), upcoming in zip(prompts, following, strict=True):
        prompt = text.prompt(blocks, tokens, head_tokens=head, reply_tokens=reply, next_blocks=upcoming)
        data = tokens_of(prompt)
        assert len(data) == tokens * 4
        rendered.append((blocks, data))
    check_blocks(rendered, BLOCK)


def linear(session: CodingSession) -> list[list[Any]]:
    """Returns the calls of each branch."""
    main = [event for event in session.events if not isinstance(event, tuple)]
    subagents = [one.turns for event in session.events if isinstance(event, tuple) for one in event]
    return [list(main), *map(list, subagents)]


@pytest.mark.parametrize("number", ["0254", "0086", "0232", "0274", "0085", "0297", "0722"])
def test_recorded_sessions(coding_sessions: Path, number: str) -> None:
    session = read_coding_session(coding_sessions / f"trace_{number}.json")
    text = SessionText(session.id, session.block_size)
    rendered: list[tuple[tuple[int, ...], bytes]] = []
    extended = 0
    for turns in linear(session):
        previous: list[bytes] = []
        for index, turn in enumerate(turns):
            prompt = text.prompt(
                turn.blocks,
                turn.input_tokens,
                head_tokens=session.head_tokens,
                reply_tokens=turns[index - 1].output_tokens if index else 0,
                next_blocks=turns[index + 1].blocks if index + 1 < len(turns) else (),
            )
            data = tokens_of(prompt)
            assert len(data) == turn.input_tokens * 4
            rendered.append((turn.blocks, data))
            digests = [link.digest for link in chain({"model": "m", "messages": prompt.messages})]
            extended += digests[: len(previous)] == previous
            previous = digests
    check_blocks(rendered, session.block_size)
    # Where the recording extends a prompt, the chain of messages does so too.
    assert extended >= 0.7 * len(rendered)


def test_sessions_share_no_text() -> None:
    one = SessionText("a", 64).prompt((1, 2), 130)
    two = SessionText("b", 64).prompt((1, 2), 130)
    again = SessionText("a", 64).prompt((1, 2), 130)
    assert one == again
    assert tokens_of(one)[:256] != tokens_of(two)[:256]
