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

TRACES = Path(__file__).parents[4] / "shared" / "traces"


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
