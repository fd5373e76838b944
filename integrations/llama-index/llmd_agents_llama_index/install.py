"""What an application calls once, before its first run."""

from __future__ import annotations

from typing import Final

from llama_index_instrumentation import get_dispatcher

from .spans import Cancellations, ProgramSpans
from .tested import all_tested
from .wrapped import unwrap, wrap

_installed: Final[list[tuple[ProgramSpans, Cancellations]]] = []


def install() -> None:
    """Observes all of LlamaIndex in this process from now on. To call it again changes nothing.

    With versions that it has not been tested with, it warns and does nothing.
    """
    if not all_tested() or _installed:
        return
    handlers = ProgramSpans(), Cancellations()
    _installed.append(handlers)
    dispatcher = get_dispatcher()
    dispatcher.add_span_handler(handlers[0])
    dispatcher.add_event_handler(handlers[1])
    wrap()


def uninstall() -> None:
    """Observes no more, and leaves LlamaIndex as it was."""
    if not _installed:
        return
    spans, cancellations = _installed.pop()
    dispatcher = get_dispatcher()
    dispatcher.span_handlers.remove(spans)
    dispatcher.event_handlers.remove(cancellations)
    unwrap()
