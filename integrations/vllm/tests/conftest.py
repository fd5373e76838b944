"""Fixtures for all tests; the environment for vLLM is set before anything imports it."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness.environment import variables
from harness.tiny_model import kept_model

_HOME = tempfile.TemporaryDirectory(prefix="llmd-agents-vllm-", ignore_cleanup_errors=True)
os.environ.update(variables(Path(_HOME.name)))
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

# How long an example takes depends on the machine and on what else runs there.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SERVERS = Path(__file__).parent / "servers"
TRACES = Path(__file__).parents[4] / "shared" / "traces"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share engines run in one process: those of a fleet of servers, else those of a file.

    Fleets come first: they take longest, and the other process has the rest for itself meanwhile.
    """
    for item in items:
        unit = item.path.parent if SERVERS in item.path.parents else item.path
        item.add_marker(pytest.mark.xdist_group(str(unit.relative_to(SERVERS.parent))))
    items.sort(key=lambda item: SERVERS not in item.path.parents)


@pytest.fixture(scope="session", autouse=True)
def _home() -> Iterator[None]:
    yield
    _HOME.cleanup()


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of the tiny model, made once and kept beside what is installed."""
    return kept_model(Path(sys.prefix))


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder of recorded workloads, which lies beside the checkout."""
    if not TRACES.is_dir():
        reason = f"no recorded workloads at {TRACES}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return TRACES
