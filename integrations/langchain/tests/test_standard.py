"""LangChain's standard tests of a chat model pass with the adapter as they do without."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import certifi
import pytest

from llmd_agents.testing import Line, recording_server
from tests.stack import stack
from tests.standard.obliging import oblige

FOLDER = Path(__file__).parent
MUST_PASS = FOLDER / "standard" / "must_pass.txt"
END = "-----END CERTIFICATE-----\n"


def outcomes(stack_url: str, scripted_url: str, folder: Path, *, adapter: bool) -> dict[str, str]:
    """Runs the standard tests in a process of their own; returns what has become of each."""
    how = "adapter" if adapter else "nothing"
    report, certificates = folder / f"{how}.xml", folder / "certificates.pem"
    # Each test makes clients of its own, and loading all certificates takes longer than what it tests.
    certificates.write_text(Path(certifi.where()).read_text().partition(END)[0] + END)
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"),
            *("--asyncio-mode=auto", "-o", "xfail_strict=false", "--benchmark-disable"),
            *("--tb=no", f"--junitxml={report}", "tests/standard/test_chat_model.py"),
        ],
        cwd=FOLDER.parent,
        env={
            **os.environ,
            "LLMD_AGENTS_TESTED_STACK": stack_url,
            "LLMD_AGENTS_TESTED_SCRIPTED": scripted_url,
            "LLMD_AGENTS_TESTED_WITH": how,
            "SSL_CERT_FILE": str(certificates),
        },
        capture_output=True,
        timeout=110,
        check=False,
    )
    return {
        f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}": outcome(case)
        for case in ElementTree.parse(report).iter("testcase")
    }


def outcome(case: Any) -> str:
    told = {child.tag for child in case} - {"system-out", "system-err", "properties"}
    return " ".join(sorted(told)) or "passed"


@pytest.mark.timeout(240)
def test_the_same_tests_pass(tmp_path: Path) -> None:
    found = {}
    with stack() as base_url:
        for adapter in (False, True):
            with recording_server(Line(oblige, times=None)) as server:
                found[adapter] = outcomes(base_url, server.base_url, tmp_path, adapter=adapter)
                programs = {call.hints and call.hints.program.name for call in server.calls}
                # Those of the tests that run chains, and that of calls outside of any.
                assert programs == ({"RunnableSequence", "undeclared"} if adapter else {None})
    assert found[True] == found[False]
    passed = [name for name, outcome in found[True].items() if outcome == "passed"]
    assert sorted(passed) == MUST_PASS.read_text().split()
