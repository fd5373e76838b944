"""The pytest plugin and the examples of the documentation, in a pytest of their own."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"
PLUGIN = 'pytest_plugins = ["llmd_agents.testing.plugin"]\n'


def run_pytest(folder: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *names],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_examples_of_the_documentation(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    for index, block in enumerate(blocks):
        (tmp_path / f"test_block_{index}.py").write_text(block)
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout
    assert len(blocks) == 4
    assert "5 passed" in done.stdout


def test_a_script_that_is_not_kept_to_fails_the_test_itself(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "test_it.py").write_text(
        """
import pytest

def test_unused(llm_server):
    llm_server.script.add("never said")

def test_several(llm_servers):
    llm_servers("one never said")
    llm_servers("another")

def test_raises(llm_server):
    llm_server.script.add("never said")
    raise ZeroDivisionError

def test_skipped(llm_server):
    llm_server.script.add("never said")
    pytest.skip("not today")

def test_unaffected():
    pass
"""
    )
    done = run_pytest(tmp_path)
    assert "3 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    assert done.stdout.count("line 1 was taken 0 of 1 times: 'never said' for any call") >= 2
    assert "ZeroDivisionError" in done.stdout
    assert "ERROR" not in done.stdout


def test_the_package_says_what_is_missing() -> None:
    code = """
import sys
sys.modules["uvicorn"] = None
try:
    import llmd_agents.testing
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == (
        "llmd_agents.testing needs uvicorn; install it with: pip install 'llmd-agents[testing]'\n"
    ), done.stderr
