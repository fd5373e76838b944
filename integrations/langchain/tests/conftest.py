"""What the tests share: a recording server that repeats what it is told, and a model that calls it."""

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tracers import context
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from llmd_agents.testing import RecordingServer, recording_server
from llmd_agents_langchain import hooked, install
from tests.recorded import ECHO


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server(ECHO) as running:
        yield running


@pytest.fixture
def model(server: RecordingServer) -> Iterator[ChatOpenAI]:
    clients = hooked()
    # No connection outlives its event loop, of which a test may have several.
    alone = {"connection": "close"}
    yield ChatOpenAI(
        model="m",
        base_url=server.base_url,
        api_key=SecretStr("none"),
        max_retries=0,
        default_headers=alone,
        **clients,
    )
    clients["http_client"].close()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hooks: list[Any] = list(context._configure_hooks)
    monkeypatch.setattr(context, "_configure_hooks", hooks)
    install.cache_clear()
    install()
    yield
    install.cache_clear()
