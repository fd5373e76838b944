"""The policy's clock, in the tests' hands."""

from collections.abc import Iterator

import pytest

from .stories import Clock, ticking


@pytest.fixture
def clock() -> Iterator[Clock]:
    with ticking() as clock:
        yield clock
