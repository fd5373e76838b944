from collections.abc import Iterator

import pytest

from llmd_agents_llama_index import install, uninstall


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    install()
    yield
    uninstall()
