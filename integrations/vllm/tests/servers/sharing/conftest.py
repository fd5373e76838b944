"""Engines that share a directory: what one computes, the others load."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.connectors import composed, shared_directory
from tests.servers.fleet import COSTS, Fleet, fleet


@pytest.fixture(scope="package")
def running(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("sharing")
    with fleet(tiny_model, folder, composed(shared_directory(folder / "kv"), **COSTS)) as started:
        yield started


@pytest.fixture
def engines(running: Fleet) -> Fleet:
    running.forget()
    return running
