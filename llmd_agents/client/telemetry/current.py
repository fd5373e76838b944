"""A span that is the current one while a block runs, wherever the block is left."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry import context
from opentelemetry.trace import set_span_in_context

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

_here: ContextVar[object] = ContextVar("llmd_agents_span_here", default=None)


@dataclass(frozen=True, slots=True)
class Current:
    """A span, and how to make the one before it the current one again."""

    span: Span
    _token: Token[Context]
    _here_token: Token[object]

    def leave(self) -> None:
        # OpenTelemetry logs an error if this is another context, as when a generator is closed elsewhere. A
        # variable of our own tells: that context never saw the span, so there is nothing to undo.
        try:
            _here.reset(self._here_token)
        except ValueError:
            return
        context.detach(self._token)


def make_current(span: Span) -> Current:
    return Current(span, context.attach(set_span_in_context(span)), _here.set(span))
