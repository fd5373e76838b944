"""The openai package, whichever major version is installed, through client, router and engines."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from llmd_agents import instrument, program
from tests.stack.servers import Stack, stack


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack(2) as running:
        yield running


def talk(*texts: str) -> Any:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def test_sync(servers: Stack) -> None:
    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client, program("sync") as run:
        instrument(client)
        first = client.chat.completions.create(model="m", messages=talk("x" * 2000))
        text = first.choices[0].message.content
        assert text
        second = client.chat.completions.create(model="m", messages=talk("x" * 2000, text, "go on"))
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) > 400
    graph = servers.program(run.id)
    assert graph["status"] == "ok"
    assert graph["edges"] == [["s1", "s2"]]
    assert [step["status"] for step in graph["steps"]] == ["finished", "finished"]
    assert graph["steps"][0]["engine"] == graph["steps"][1]["engine"]
    assert graph["steps"][1]["prompt_tokens"] == second.usage.prompt_tokens


def test_stream(servers: Stack) -> None:
    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client, program("stream") as run:
        instrument(client)
        whole = client.chat.completions.create(model="m", messages=talk("stream it"))
        stream = client.chat.completions.create(model="m", messages=talk("stream it"), stream=True)
        chunks = list(stream)
    # The router asks engines for usage; the client had not, and sees none of it.
    assert all(chunk.choices for chunk in chunks)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    )
    assert all(step["prompt_tokens"] for step in servers.program(run.id)["steps"])


def test_stream_with_usage(servers: Stack) -> None:
    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client:
        stream = client.chat.completions.create(
            model="m", messages=talk("hi"), stream=True, stream_options={"include_usage": True}
        )
        last = list(stream)[-1]
    assert last.usage is not None
    assert last.usage.prompt_tokens == 4
    assert not last.choices


def test_async_fork(servers: Stack) -> None:
    async def main() -> str:
        async with AsyncOpenAI(base_url=f"{servers.router}/v1", api_key="k") as client:
            instrument(client)

            async def ask(*texts: str) -> str:
                reply = await client.chat.completions.create(model="m", messages=talk(*texts))
                return reply.choices[0].message.content or ""

            async with program("fork") as run:
                plan = await ask("x" * 4000)
                async with run.fork(4, name="work") as fork:
                    parts = await fork.map(lambda item: ask("x" * 4000, plan, f"part {item}"), range(4))
                await ask("x" * 4000, plan, "\n".join(parts))
        return run.id

    graph = servers.program(asyncio.run(main()))
    assert len(graph["steps"]) == 6
    assert sorted(map(tuple, graph["edges"])) == sorted(
        [*(("s1", f"s{n}") for n in range(2, 6)), *((f"s{n}", "s6") for n in range(2, 6))]
    )
    children = [step for step in graph["steps"] if step["fork"]]
    assert {step["engine"] for step in children} <= {"engine-0", "engine-1"}
    (fork,) = graph["forks"]
    assert (fork["name"], fork["width"], fork["joined"]) == ("work", 4, True)
    assert {branch["status"] for branch in graph["branches"] if branch["fork"]} == {"ok"}
    held = [branch["residency"] for branch in graph["branches"]]
    assert all(residency for residency in held)


def test_hints_change_no_reply(servers: Stack) -> None:
    conversation = [talk(*["so " * n] * (2 * n + 1)) for n in range(5)]

    def replies(client: OpenAI) -> list[Any]:
        return [
            client.chat.completions.create(model="m", messages=messages, max_tokens=20).choices[0].to_dict()
            for messages in conversation
        ]

    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client:
        plain = replies(client)
        instrument(client)
        undeclared = replies(client)
        with program("declared"):
            declared = replies(client)
    assert plain == undeclared == declared


def test_errors_keep_their_type(servers: Stack) -> None:
    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client, program("errors"):
        instrument(client)
        with pytest.raises(openai.BadRequestError, match="context") as raised:
            client.chat.completions.create(model="m", messages=talk("x" * 100_000))
        assert raised.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="m", messages="nothing of the kind")  # type: ignore[arg-type]
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="m", input="x")
        assert [model.id for model in client.models.list()]


def test_completions(servers: Stack) -> None:
    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client:
        instrument(client)
        whole = client.completions.create(model="m", prompt="once " * 500, max_tokens=9)
        parts = list(client.completions.create(model="m", prompt="once " * 500, max_tokens=9, stream=True))
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 9


def test_responses(servers: Stack) -> None:
    with OpenAI(base_url=f"{servers.router}/v1", api_key="k") as client:
        instrument(client)
        first = client.responses.create(model="m", input="begin " * 500, instructions="Be brief.")
        with client.responses.stream(
            model="m", input="go on", instructions="Be brief.", previous_response_id=first.id
        ) as stream:
            second = stream.get_final_response()
        replayed = client.responses.create(
            model="m",
            instructions="Be brief.",
            input=[
                {"role": "user", "content": "begin " * 500},
                {"role": "assistant", "content": first.output_text},
                {"role": "user", "content": "go on"},
            ],
        )
        assert second.output_text == replayed.output_text
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens > 700
        assert client.responses.retrieve(second.id).output_text == second.output_text
        client.responses.delete(second.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(second.id)
        with pytest.raises(openai.NotFoundError) as raised:
            client.responses.create(model="m", input="go on", previous_response_id=second.id)
        assert raised.value.code == "previous_response_not_found"


def test_async_responses_and_completions(servers: Stack) -> None:
    async def main() -> None:
        async with AsyncOpenAI(base_url=f"{servers.router}/v1", api_key="k") as client:
            instrument(client)
            whole, text = await asyncio.gather(
                client.responses.create(model="m", input="hello"),
                client.completions.create(model="m", prompt="hello", max_tokens=4),
            )
            async with client.responses.stream(model="m", input="hello") as stream:
                assert (await stream.get_final_response()).output_text == whole.output_text
            parts = await client.completions.create(model="m", prompt="hello", max_tokens=4, stream=True)
            assert "".join([part.choices[0].text async for part in parts]) == text.choices[0].text

    asyncio.run(main())
