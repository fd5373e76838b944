"""Docstrings of attributes, which Python itself does not keep: read from the source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from types import ModuleType


def attribute_docs(of: type | ModuleType) -> dict[str, str]:
    """Returns the docstrings that stand below the attributes of a class or module, as single lines.

    Those of an `Attributes:` section in a class's own docstring count too, and those of its bases.
    """
    found: dict[str, str] = {}
    if isinstance(of, type):
        for base in reversed(of.__mro__):
            if base.__module__.startswith(__package__ or ""):
                found |= _section(base) | _below(base)
    else:
        found = _below(of)
    return found


def summary(of: type) -> str:
    """Returns a class's docstring without its list of attributes, as paragraphs of one line."""
    text = inspect.cleandoc(of.__doc__ or "").split("\nAttributes:\n")[0]
    return "\n\n".join(_line(paragraph) for paragraph in text.strip().split("\n\n"))


@cache
def _below(of: type | ModuleType) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(of)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body
    found = {}
    for statement, following in pairwise(body):
        target: ast.expr | None = None
        if isinstance(statement, ast.AnnAssign):
            target = statement.target
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        if isinstance(target, ast.Name) and isinstance(following, ast.Expr):
            value = following.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[target.id] = _line(value.value)
    return found


def _section(of: type) -> dict[str, str]:
    _, _, listed = inspect.cleandoc(of.__doc__ or "").partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(listed.split("\n\n")[0]).splitlines():
        if not line.startswith(" "):
            name, _, line = line.partition(":")
        found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return {name: _sentence(text) for name, text in found.items()}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(text: str) -> str:
    return " ".join(text.split())
