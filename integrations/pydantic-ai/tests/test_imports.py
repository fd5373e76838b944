"""The adapter uses what is public, and nothing deeper."""

import ast
import importlib.metadata
from pathlib import Path

import pydantic_ai
import pydantic_graph
import pytest

import llmd_agents
import llmd_agents_pydantic_ai
from llmd_agents import client

PACKAGE = Path(llmd_agents_pydantic_ai.__file__).parent
PUBLIC = {
    "llmd_agents": set(llmd_agents.__all__),
    "llmd_agents.client": set(client.__all__),
    "pydantic_ai": set(pydantic_ai.__all__),
    "pydantic_graph": set(pydantic_graph.__all__),
}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_imports_are_public(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names}.isdisjoint({"llmd_agents", "pydantic_ai"})
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = {name.name for name in node.names}
            assert not [
                part
                for part in (*module.split("."), *names)
                if part.startswith("_") and module != "__future__"
            ]
            if module.startswith("llmd_agents"):
                assert module in PUBLIC
            if module in PUBLIC:
                assert names <= PUBLIC[module]


def test_what_is_public_here() -> None:
    assert llmd_agents_pydantic_ai.__all__ == ["ProgramHints", "hinted"]
    assert all(hasattr(llmd_agents_pydantic_ai, name) for name in llmd_agents_pydantic_ai.__all__)


def test_the_tested_version() -> None:
    assert importlib.metadata.version("pydantic-ai-slim").startswith("2.68.")
