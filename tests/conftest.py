"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on the machine and on what else runs there.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

TRACES = Path(__file__).parents[2] / "shared" / "traces"


@pytest.fixture(scope="session")
def coding_sessions() -> Path:
    """The folder of recorded coding-agent sessions, which lies beside the checkout."""
    folder = TRACES / "claude-code"
    if not folder.is_dir():
        reason = f"no recorded sessions at {folder}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
