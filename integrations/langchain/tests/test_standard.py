"""LangChain's standard tests of a chat model pass with the adapter as they do without."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.stack import stack

FOLDER = Path(__file__).parent
MUST_PASS = FOLDER / "standard" / "must_pass.txt"


def passed(base_url: str, report: Path, *, adapter: bool) -> set[str]:
    """Runs the standard tests in a process of their own; returns which have passed."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
            *("--asyncio-mode=auto", "-o", "xfail_strict=false", f"--junitxml={report}"),
            "tests/standard/test_chat_model.py",
        ],
        cwd=FOLDER.parent,
        env={
            **os.environ,
            "LLMD_AGENTS_TESTED_AT": base_url,
            "LLMD_AGENTS_TESTED_WITH": "adapter" if adapter else "nothing",
        },
        capture_output=True,
        timeout=110,
        check=False,
    )
    cases = ElementTree.parse(report).iter("testcase")
    return {
        f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for case in cases
        if not len(case) or {child.tag for child in case} <= {"system-out", "system-err", "properties"}
    }


@pytest.mark.timeout(240)
def test_the_same_tests_pass(tmp_path: Path) -> None:
    with stack() as base_url:
        without = passed(base_url, tmp_path / "without.xml", adapter=False)
        with_it = passed(base_url, tmp_path / "with.xml", adapter=True)
    assert with_it == without
    assert sorted(with_it) == MUST_PASS.read_text().split()
