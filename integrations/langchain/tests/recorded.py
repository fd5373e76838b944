"""What the recording server has seen, by the texts that were said."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.runnables import Runnable, RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from llmd_agents.testing import Failure, Line, ProgramGraph, RecordedRequest, RecordingServer, Reply
from llmd_agents_langchain import LlmdAgentsHandler, hooked


def _echo(request: RecordedRequest) -> Reply | Failure:
    said = request.last_text
    return Failure(400, "not that") if said.startswith("!") else Reply(said)


ECHO = Line(_echo, times=None)
"""Repeats what is said, and refuses what begins with an exclamation mark."""


@contextmanager
def model_of(base_url: str) -> Iterator[ChatOpenAI]:
    """Yields a model whose clients carry hints."""
    clients = hooked()
    # No connection outlives its event loop, of which a test may have several.
    alone = {"connection": "close"}
    with clients["http_client"]:
        yield ChatOpenAI(
            model="m",
            base_url=base_url,
            api_key=SecretStr("none"),
            max_retries=0,
            default_headers=alone,
            **clients,
        )


def watched(**config: Any) -> Any:
    """Returns a config that attaches the handler."""
    return {"callbacks": [LlmdAgentsHandler()], **config}


def say(model: ChatOpenAI, text: str | None = None) -> Runnable[Any, str]:
    """Returns a chain that says a text to the model, by default its input, and returns the answer."""
    ask: Runnable[Any, str] = RunnableLambda(lambda given: given if text is None else text)
    return ask | model | RunnableLambda(lambda message: message.text)


def by_text(server: RecordingServer, graph: ProgramGraph) -> ProgramGraph:
    """Returns the graph with what was said for labels."""
    said = {
        call.hints.step.id: call.last_text
        for call in server.calls
        if call.hints is not None and call.hints.program.id == graph.id
    }
    return graph.labelled(lambda step: said[step.id])


def recorded(server: RecordingServer) -> ProgramGraph:
    """Returns the only program that the server has seen, with what was said for labels."""
    return by_text(server, server.graph())


def edges(graph: ProgramGraph) -> set[tuple[str, str]]:
    found = [(one.label, other.label) for one, other in graph.edges]
    assert len(found) == len(set(found))
    return set(found)
