"""Nothing leaves loopback: the SDK's own exporter is not among the processors."""

from collections.abc import Iterator

import pytest
from agents import set_trace_processors, set_tracing_disabled

from llmd_agents_openai_agents import ProgramProcessor


@pytest.fixture(autouse=True)
def processors() -> Iterator[None]:
    set_trace_processors([ProgramProcessor()])
    set_tracing_disabled(False)
    yield
    set_trace_processors([])
