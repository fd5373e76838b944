"""What LlamaIndex's instrumentation tells: spans begin and end in the context of their code."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import NullSpanHandler
from llama_index.core.workflow import Event, Workflow

from llmd_agents.client import faults

from .conversation import conversation
from .part import Part, begin_part
from .place import Place, current_place
from .workflow_run import WorkflowRun

if TYPE_CHECKING:
    import inspect

    from llama_index.core.instrumentation.events import BaseEvent

SPANS_MAX: Final = 16_384

ID_LENGTH: Final = 37
"""Of what ends a span's id: a hyphen and a UUID."""


class OpenSpans:
    """What spans stand for that are not over; of more than `SPANS_MAX`, the oldest are given up."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, WorkflowRun | Place | Part] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, span: str | None) -> WorkflowRun | Place | Part | None:
        return None if span is None else self._open.get(span)

    def put(self, span: str, stands_for: WorkflowRun | Place | Part) -> None:
        self._open[span] = stands_for
        if len(self._open) > SPANS_MAX:
            _, oldest = self._open.popitem(last=False)
            oldest.cancelled = True
            oldest.end(None, None)

    def end(self, span: str, result: object, error: BaseException | None) -> None:
        found = self._open.pop(span, None)
        if found is not None:
            found.end(result, error)


open_spans: Final = OpenSpans()


@faults("a span's beginning gives no hints")
def begin(span: str, arguments: dict[str, Any], instance: Any, parent: str | None) -> None:
    surroundings = open_spans.get(parent)
    name = span[:-ID_LENGTH].rsplit(".", 1)[-1]
    begun: WorkflowRun | Place | Part | None
    if instance is None and isinstance(surroundings, WorkflowRun):
        # What runs in a run, and not within something else, are its steps.
        begun = surroundings.begin_step(name, _events(arguments))
        current_place.set(begun)
    elif isinstance(instance, Workflow) and "start_event" in arguments:
        begun = WorkflowRun(instance, arguments["start_event"], conversation.get())
    else:
        begun = begin_part(name, instance)
    if begun is not None:
        open_spans.put(span, begun)


@faults("a span's end gives no hints")
def end(span: str, result: object, error: BaseException | None) -> None:
    open_spans.end(span, result, error)


@faults("a cancelled span gives no hints")
def note_cancelled(span: str | None) -> None:
    # The framework catches the exception within the span, and reports this instead.
    if (found := open_spans.get(span)) is not None:
        found.cancelled = True


def _events(arguments: dict[str, Any]) -> list[Event]:
    listed = [one for value in arguments.values() for one in (value if isinstance(value, list) else (value,))]
    return [one for one in listed if isinstance(one, Event)]


class ProgramSpans(NullSpanHandler):
    """Begins and ends scopes with spans. It keeps no spans itself."""

    @classmethod
    def class_name(cls) -> str:
        return "ProgramSpans"

    def span_enter(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        parent_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        begin(id_, bound_args.arguments, instance, parent_id)

    def span_exit(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        result: Any | None = None,
        **kwargs: Any,
    ) -> None:
        end(id_, result, None)

    def span_drop(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        end(id_, None, err)


class Cancellations(BaseEventHandler):
    """Notes which spans were cancelled."""

    @classmethod
    def class_name(cls) -> str:
        return "Cancellations"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if event.class_name() == "SpanCancelledEvent":
            note_cancelled(event.span_id)
