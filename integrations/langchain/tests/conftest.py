"""What the tests share: a recording server that repeats what it is told, and a model that calls it."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tracers import context
from langchain_openai import ChatOpenAI

from llmd_agents.testing import RecordingServer, recording_server
from llmd_agents_langchain import install
from tests.recorded import ECHO, model_of


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server(ECHO) as running:
        yield running


@pytest.fixture
def model(server: RecordingServer) -> Iterator[ChatOpenAI]:
    with model_of(server.base_url) as made:
        yield made


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hooks: list[Any] = list(context._configure_hooks)
    monkeypatch.setattr(context, "_configure_hooks", hooks)
    install.cache_clear()
    install()
    yield
    install.cache_clear()
