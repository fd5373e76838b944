"""The policy's clock, in the tests' hands."""

import pytest

from llmd_agents_vllm.offload import policy

from .stories import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(policy, "monotonic", clock)
    return clock
