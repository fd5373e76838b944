"""The linter beside real clients: on what a recording server saw, and as a context manager."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from openai import OpenAI

from llmd_agents import instrument, program
from llmd_agents.linter import assert_prefix_stable
from llmd_agents.testing import RecordingServer, recording_server

pytestmark = pytest.mark.filterwarnings("ignore::llmd_agents.linter.PrefixWarning")

FACTS = "There is much to know about this. " * 20
QUESTION = {"role": "user", "content": "What is the answer to everything?"}


@contextmanager
def serving() -> Iterator[tuple[RecordingServer, OpenAI]]:
    with (
        recording_server() as server,
        OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client,
    ):
        yield server, client


def converse(client: OpenAI, *, changing: bool) -> None:
    """Makes three turns; on each, the system prompt tells another minute if it is to change."""
    turns: list[Any] = [QUESTION]
    for turn in range(3):
        minute = 10 + turn if changing else 10
        messages: list[Any] = [{"role": "system", "content": f"It is 10:{minute}. {FACTS}"}, *turns]
        reply = client.chat.completions.create(model="test-model", messages=messages)
        turns += [{"role": "assistant", "content": reply.choices[0].message.content}, QUESTION]


@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize("declared", [False, True])
def test_a_recording_server_tells_whether_prompts_were_stable(instrumented: bool, declared: bool) -> None:
    for changing in (False, True):
        with serving() as (server, client):
            if instrumented:
                instrument(client)
            with program("chat") if declared else nullcontext():
                converse(client, changing=changing)
            if changing:
                with pytest.raises(AssertionError, match="a time changed in the system prompt"):
                    assert_prefix_stable(server)
            else:
                assert_prefix_stable(server)


@pytest.mark.parametrize("declared", [False, True])
def test_a_block_around_instrumented_clients(declared: bool) -> None:
    with serving() as (_, client):
        instrument(client)
        with assert_prefix_stable() as seen, program("chat") if declared else nullcontext():
            converse(client, changing=False)
        assert seen.requests == 3
        with (
            pytest.raises(AssertionError, match="message 0, byte 10"),
            assert_prefix_stable(),
            program("chat") if declared else nullcontext(),
        ):
            converse(client, changing=True)
