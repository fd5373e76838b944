"""LangChain's own tests of chat models, against router and embedded engines.

`test_standard.py` runs them with and without the adapter.
"""

import os
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from llmd_agents_langchain import hooked, install

ADAPTER = os.environ.get("LLMD_AGENTS_TESTED_WITH") == "adapter"
BASE_URL = os.environ.get("LLMD_AGENTS_TESTED_AT", "http://127.0.0.1:1/v1")

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True, scope="session")
def adapter() -> None:
    if ADAPTER:
        install()


def plain() -> dict[str, Any]:
    """Returns such clients as `hooked` does, unhooked: models' own outlive event loops."""
    return {"http_client": DefaultHttpxClient(), "http_async_client": DefaultAsyncHttpxClient()}


class OfTheStack:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        clients = hooked() if ADAPTER else plain()
        return {
            "model": "any",
            "base_url": BASE_URL,
            "api_key": "none",
            "max_retries": 0,
            "stream_usage": True,
            **clients,
        }

    @property
    def supports_image_inputs(self) -> bool:
        return False


class TestUnit(OfTheStack, ChatModelUnitTests):
    """Those that need no server."""


class TestIntegration(OfTheStack, ChatModelIntegrationTests):
    """Those that call one."""
