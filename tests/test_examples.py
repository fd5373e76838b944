"""Every example runs as a user would run it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack.servers import stack

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.stem))
def test_example(path: Path) -> None:
    with stack(2) as servers:
        done = subprocess.run(
            [sys.executable, str(path), f"{servers.router}/v1"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "3 drafts" in done.stdout
