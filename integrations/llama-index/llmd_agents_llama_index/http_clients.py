"""HTTP clients that carry hints, for LLMs that are built on the openai client."""

from collections.abc import Collection
from typing import Any

from llmd_agents.client import attach


def hooked(*, hosts: Collection[str] | None = None) -> dict[str, Any]:
    """Returns `http_client` and `async_http_client`, for `OpenAI`, `OpenAILike` and what derives from them.

        llm = OpenAI(model="…", api_base="…", **hooked())

    Args:
        hosts: the only hosts that hints may go to; by default they go wherever these clients call a model.
    """
    # Which HTTP library the openai package is built on depends on its version, so it is asked for clients.
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

    return {
        "http_client": attach(DefaultHttpxClient(), hosts=hosts),
        "async_http_client": attach(DefaultAsyncHttpxClient(), hosts=hosts),
    }
