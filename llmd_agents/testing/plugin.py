"""Fixtures for pytest: `pytest_plugins = ["llmd_agents.testing.plugin"]`."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest

from .script import Line, Script, Told
from .server import RecordingServer, listening

_SERVERS = pytest.StashKey[list[RecordingServer]]()


@pytest.fixture
def llm_servers(request: pytest.FixtureRequest) -> Iterator[Callable[..., RecordingServer]]:
    """Starts a recording server with each call: `llm_servers("a plan", Line("an idea", kind="think"))`."""
    servers = request.node.stash.setdefault(_SERVERS, [])
    with ExitStack() as running:

        def start(*lines: Line | Told) -> RecordingServer:
            server = running.enter_context(listening(RecordingServer(Script(*lines))))
            servers.append(server)
            return server

        yield start


@pytest.fixture
def llm_server(llm_servers: Callable[..., RecordingServer]) -> RecordingServer:
    """A recording server without a script: give it one with `llm_server.script.add(…)`."""
    return llm_servers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Lets the test itself fail, rather than its teardown, if the program did not keep to its script."""
    __tracebackhide__ = True
    try:
        yield
    except BaseException as error:
        for server in item.stash.get(_SERVERS, []):
            server.script.explain(error)
        raise
    for server in item.stash.get(_SERVERS, []):
        server.script.verify()
