"""What a recording server was told, with steps named by the last message of their calls."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

from llmd_agents.testing import Line, RecordingServer, recording_server
from llmd_agents.testing.graph import ProgramGraph
from llmd_agents_llama_index import hooked

T = TypeVar("T")


@contextmanager
def told(*lines: object) -> Iterator[RecordingServer]:
    """Runs a server that answers by a script; by default anything."""
    with recording_server(*(lines or (Line("fine", times=None),))) as server:  # type: ignore[arg-type]
        yield server


@asynccontextmanager
async def llm_at(server: RecordingServer) -> AsyncIterator[OpenAI]:
    clients = hooked()
    with clients["http_client"]:
        async with clients["async_http_client"]:
            yield OpenAI(model="gpt-4o", api_base=server.base_url, api_key="none", max_retries=0, **clients)


def run(server: RecordingServer, main: Callable[[OpenAI], Awaitable[T]]) -> T:
    """Runs a coroutine function on a model of the server."""

    async def on_model() -> T:
        async with llm_at(server) as llm:
            return await main(llm)

    return asyncio.run(on_model())


def say(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def named(server: RecordingServer, program: str | None = None) -> ProgramGraph:
    """Returns the graph of the only program (of this name), its steps labelled with what was said last."""
    graph = server.graph(program) if program is not None else server.graph()
    return name_steps(server, graph)


def name_steps(server: RecordingServer, graph: ProgramGraph) -> ProgramGraph:
    texts = {
        call.hints.step.id: call.last_text
        for call in server.calls
        if call.hints is not None and call.hints.program.id == graph.id
    }
    return graph.labelled(lambda step: texts[step.id])


def edges(graph: ProgramGraph) -> Counter[tuple[str, str]]:
    """Returns each edge of the graph, as often as it is there."""
    return Counter((one.label, other.label) for one, other in graph.edges)


def wait_for(condition: Callable[[], object]) -> None:
    """Waits for something that will be true soon."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("nothing of the kind within 20 s")
