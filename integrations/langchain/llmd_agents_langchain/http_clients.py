"""HTTP clients that carry hints, for chat models that are built on the openai client."""

from collections.abc import Collection
from typing import Any

from llmd_agents.client import attach

from .tested import all_tested


def hooked(*, hosts: Collection[str] | None = None) -> dict[str, Any]:
    """Returns `http_client` and `http_async_client`, for `ChatOpenAI` and models derived from it.

        model = ChatOpenAI(model="…", base_url="…", **hooked())

    With a version of LangChain or LangGraph that it has not been tested with it warns, and they carry none.

    Args:
        hosts: the only hosts that hints may go to; by default they go wherever these clients call a model.
    """
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

    clients: dict[str, Any] = {
        "http_client": DefaultHttpxClient(),
        "http_async_client": DefaultAsyncHttpxClient(),
    }
    if all_tested():
        for client in clients.values():
            attach(client, hosts=hosts)
    return clients
