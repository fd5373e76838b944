"""What LlamaIndex's instrumentation tells: spans begin and end in the context of their code."""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from typing import Any, Final

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.workflow import Event, Workflow

from .conversation import conversation
from .part import Part, begin_part
from .place import Place, current_place
from .quietly import quietly
from .workflow_run import WorkflowRun

SPANS_MAX: Final = 16_384

ID_LENGTH: Final = 37
"""Of what ends a span's id: a hyphen and a UUID."""


class OpenSpans:
    """What spans stand for that are not over; of more than `SPANS_MAX`, the oldest are given up."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, WorkflowRun | Place | Part] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, span: str | None) -> WorkflowRun | Place | Part | None:
        return None if span is None else self._open.get(span)

    def put(self, span: str, stands_for: WorkflowRun | Place | Part) -> None:
        with self._lock:
            self._open[span] = stands_for
            oldest = self._open.popitem(last=False)[1] if len(self._open) > SPANS_MAX else None
        if oldest is not None:
            oldest.cancelled = True
            oldest.end(None, None)

    def end(self, span: str, result: object, error: BaseException | None) -> None:
        with self._lock:
            found = self._open.pop(span, None)
        if found is not None:
            found.end(result, error)


open_spans: Final = OpenSpans()


@quietly
def begin(span: str, arguments: dict[str, Any], instance: Any, parent: str | None) -> None:
    surroundings = open_spans.get(parent)
    begun: WorkflowRun | Place | Part | None
    if isinstance(instance, Workflow) and "start_event" in arguments:
        begun = WorkflowRun(instance, arguments["start_event"], conversation.get())
    elif isinstance(surroundings, WorkflowRun):
        # What runs in a run, and not within something else, are its steps.
        name = span[:-ID_LENGTH].rsplit(".", 1)[-1]
        begun = surroundings.begin_step(name, _events(arguments))
        current_place.set(begun)
    else:
        begun = begin_part(instance)
    if begun is not None:
        open_spans.put(span, begun)


@quietly
def end(span: str, result: object, error: BaseException | None) -> None:
    open_spans.end(span, result, error)


@quietly
def note_cancelled(span: str | None) -> None:
    # The framework catches the exception within the span, and reports this instead.
    if (found := open_spans.get(span)) is not None:
        found.cancelled = True


def _events(arguments: dict[str, Any]) -> list[Event]:
    listed = [one for value in arguments.values() for one in (value if isinstance(value, list) else [value])]
    return [one for one in listed if isinstance(one, Event)]


class ProgramSpans(BaseSpanHandler[BaseSpan]):
    """Begins and ends scopes with spans. It keeps no spans itself."""

    @classmethod
    def class_name(cls) -> str:
        return "ProgramSpans"

    def new_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        parent_span_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseSpan | None:
        begin(id_, bound_args.arguments, instance, parent_span_id)
        return None

    def prepare_to_exit_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        result: Any | None = None,
        **kwargs: Any,
    ) -> BaseSpan | None:
        end(id_, result, None)
        return None

    def prepare_to_drop_span(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> BaseSpan | None:
        end(id_, None, err)
        return None


class Cancellations(BaseEventHandler):
    """Notes which spans were cancelled."""

    @classmethod
    def class_name(cls) -> str:
        return "Cancellations"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if event.class_name() == "SpanCancelledEvent":
            note_cancelled(event.span_id)
