"""Adapters say so when a framework is of a version that they do not know."""

import warnings
from importlib.metadata import version
from typing import Any

import pytest

from llmd_agents.client import is_supported, supported


@pytest.fixture(autouse=True)
def nothing_warned_of_yet() -> None:
    supported.is_supported.cache_clear()


def test_a_tested_version() -> None:
    assert is_supported("openai", f"=={version('openai')}", adapter="an adapter")


@pytest.mark.parametrize(
    ("package", "found"), [("openai", version("openai")), ("no-such-package", "no version")]
)
def test_another_version_is_named_once(package: str, found: str) -> None:
    with pytest.warns(
        UserWarning, match=f"an adapter is tested with {package} <0.1, and {found} is installed"
    ):
        assert not is_supported(package, "<0.1", adapter="an adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_supported(package, "<0.1", adapter="an adapter")


def test_the_warning_names_the_line_of_the_application() -> None:
    adapter: dict[str, Any] = {"__name__": "llmd_agents_of_some_framework", "is_supported": is_supported}
    source = 'def install():\n    return [is_supported("openai", "<0.1", adapter="a") for _ in "x"]'
    exec(compile(source, "adapter.py", "exec"), adapter)
    with pytest.warns(UserWarning, match="tested with openai") as told:
        adapter["install"]()
    assert [one.filename for one in told] == [__file__]
