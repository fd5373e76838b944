"""HTTP clients that carry hints, for chat models that are built on the openai client."""

from collections.abc import Collection
from typing import Any

from llmd_agents.client import attach


def hooked(*, hosts: Collection[str] | None = None) -> dict[str, Any]:
    """Returns `http_client` and `http_async_client`, for `ChatOpenAI` and models derived from it.

        model = ChatOpenAI(model="…", base_url="…", **hooked())

    Args:
        hosts: the only hosts that hints may go to; by default they go wherever these clients call a model.
    """
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

    return {
        "http_client": attach(DefaultHttpxClient(), hosts=hosts),
        "http_async_client": attach(DefaultAsyncHttpxClient(), hosts=hosts),
    }
