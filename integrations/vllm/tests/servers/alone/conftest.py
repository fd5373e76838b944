"""Engines that share nothing: what one computes, the others compute again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.connectors import agent_connector
from tests.servers.fleet import COSTS, Fleet, fleet


@pytest.fixture(scope="package")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("alone")
    with fleet(tiny_model, folder, agent_connector(**COSTS)) as started:
        yield started


@pytest.fixture
def engines(running: Fleet) -> Fleet:
    running.forget()
    return running
