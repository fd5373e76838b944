"""Adds to a request what other stacks understand of its hints. Imported by clients that speak a dialect."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmd_agents.hints.dialects import DIALECTS, Surroundings, apply_body, apply_headers, client_dialects

from .added_headers import add_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .steps import PendingStep


class Translator:
    """Speaks the dialects of one client.

    Raises:
        ValueError: if there is no such dialect, or only routers speak it.
    """

    def __init__(self, dialects: Iterable[str], surroundings: Surroundings | None) -> None:
        self._dialects = client_dialects(dialects)
        self._surroundings = surroundings or Surroundings()
        self._changes_body = any(DIALECTS[name].fields is not None for name in self._dialects)

    def add(self, request: Any, pending: PendingStep, content: bytes) -> None:
        """Adds headers and members; what the caller has set stays.

        Args:
            content: the request's body.
        """
        hints, parent = pending.hints, pending.branch.parent
        around = replace(self._surroundings, parent_branch=None if parent is None else parent.id)
        for name, value in apply_headers(self._dialects, hints, around).items():
            if name not in request.headers:
                add_header(request, name, value)
        if self._changes_body:
            body = apply_body(self._dialects, hints, json.loads(content), around)
            if body is not None:
                _replace_body(request, body)


def _replace_body(request: Any, body: dict[str, Any]) -> None:
    # As openai's package writes it.
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    other = type(request)(request.method, request.url, content=content)
    request.stream, request._content = other.stream, content
    request.headers["content-length"] = str(len(content))
