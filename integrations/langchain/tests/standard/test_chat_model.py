"""LangChain's own tests of chat models, against router and embedded engines, and against a scripted model.

`test_standard.py` runs them with and without the adapter.
"""

import os
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient

from llmd_agents_langchain import hooked, install

ADAPTER = os.environ.get("LLMD_AGENTS_TESTED_WITH") == "adapter"
NOBODY = "http://127.0.0.1:1/v1"

pytestmark = pytest.mark.filterwarnings("default")

Detail = Literal[
    "audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"
]


@pytest.fixture(autouse=True, scope="session")
def adapter() -> None:
    if ADAPTER:
        install()


def plain() -> dict[str, Any]:
    """Returns such clients as `hooked` does, unhooked: models' own outlive event loops."""
    return {"http_client": DefaultHttpxClient(), "http_async_client": DefaultAsyncHttpxClient()}


class OfChatOpenAI:
    """What LangChain's own package claims of it, but for pictures and the like: their tests need the web."""

    base_url = NOBODY

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        clients = hooked() if ADAPTER else plain()
        return {
            "model": "any",
            "base_url": self.base_url,
            "api_key": "none",
            "max_retries": 0,
            "stream_usage": True,
            **clients,
        }

    @property
    def model_override_value(self) -> str:
        return "other"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class TestUnit(OfChatOpenAI, ChatModelUnitTests):
    """Those that need no server."""

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        env = {"OPENAI_API_KEY": "key", "OPENAI_API_BASE": NOBODY, "OPENAI_ORG_ID": "org"}
        told = {"openai_api_key": "key", "openai_api_base": NOBODY, "openai_organization": "org"}
        return env, {"model": "any"}, told


class TestStack(OfChatOpenAI, ChatModelIntegrationTests):
    """Those that call one: router and embedded engines, which call no tools and follow no schema."""

    base_url = os.environ.get("LLMD_AGENTS_TESTED_STACK", NOBODY)


class TestScripted(OfChatOpenAI, ChatModelIntegrationTests):
    """The same against a model that does."""

    base_url = os.environ.get("LLMD_AGENTS_TESTED_SCRIPTED", NOBODY)

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Detail]]:
        details: list[Detail] = ["reasoning_output", "cache_read_input"]
        return {"invoke": details, "stream": details}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params)
        if not stream:
            return model.invoke("hello")
        first, *others = model.stream("hello")
        whole = sum(others, first)
        assert isinstance(whole, AIMessageChunk)
        return whole

    invoke_with_cache_read_input = invoke_with_reasoning_output
