"""What one test lets the process learn of tools, the next does not know."""

import pytest

from llmd_agents.client import declared_tools, durations


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared_tools, "_declared", type(declared_tools._declared)())
    monkeypatch.setattr(declared_tools, "_told", type(declared_tools._told)())
    monkeypatch.setattr(durations, "_learned", None)
