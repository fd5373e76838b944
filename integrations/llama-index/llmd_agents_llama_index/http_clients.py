"""HTTP clients that carry hints, for LLMs that are built on the openai client."""

from collections.abc import Collection
from typing import Any

from llmd_agents.client import attach

from .tested import all_tested


def hooked(*, hosts: Collection[str] | None = None) -> dict[str, Any]:
    """Returns `http_client` and `async_http_client`, for `OpenAI`, `OpenAILike` and what derives from them.

        llm = OpenAI(model="…", api_base="…", **hooked())

    With a version of LlamaIndex that it has not been tested with it warns, and they carry none.

    Args:
        hosts: the only hosts that hints may go to; by default they go wherever these clients call a model.
    """
    # Which HTTP library the openai package is built on depends on its version, so it is asked for clients.
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

    clients: dict[str, Any] = {
        "http_client": DefaultHttpxClient(),
        "async_http_client": DefaultAsyncHttpxClient(),
    }
    if all_tested():
        for client in clients.values():
            attach(client, hosts=hosts)
    return clients
