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


class OpenSpans(OrderedDict[str, "WorkflowRun | Place | Part"]):
    """What spans stand for that are not over; of more than `SPANS_MAX`, the oldest are given up."""

    def put(self, span: str, stands_for: WorkflowRun | Place | Part) -> None:
        self[span] = stands_for
        if len(self) > SPANS_MAX:
            _, oldest = self.popitem(last=False)
            oldest.cancelled = True
            oldest.end(None, None)


open_spans: Final = OpenSpans()

# One for all: they keep nothing but their text.
_beginning: Final = faults("a span's beginning gives no hints")
_ending: Final = faults("a span's end gives no hints")
_cancelling: Final = faults("a cancelled span gives no hints")


def _begin(span: str, arguments: dict[str, Any], instance: Any, parent: str | None) -> None:
    surroundings = open_spans.get(parent) if parent is not None else None
    name = span[:-ID_LENGTH].rsplit(".", 1)[-1]
    begun: WorkflowRun | Place | Part | None
    if instance is None and isinstance(surroundings, WorkflowRun):
        # What runs in a run, and not within something else, are its steps.
        begun = surroundings.begin_step(name, _events(arguments))
        current_place.set(begun)
    elif isinstance(instance, Workflow) and "start_event" in arguments:
        begun = WorkflowRun(instance, arguments["start_event"], conversation.get())
    else:
        begun = begin_part(name, instance, surroundings)
    if begun is not None:
        open_spans.put(span, begun)


def _events(arguments: dict[str, Any]) -> list[Event]:
    found = []
    for value in arguments.values():
        if isinstance(value, Event):
            found.append(value)
        elif isinstance(value, list):
            found += [one for one in value if isinstance(one, Event)]
    return found


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
        with _beginning:
            _begin(id_, bound_args.arguments, instance, parent_id)

    def span_exit(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        result: Any | None = None,
        **kwargs: Any,
    ) -> None:
        if id_ in open_spans:
            with _ending:
                open_spans.pop(id_).end(result, None)

    def span_drop(
        self,
        id_: str,
        bound_args: inspect.BoundArguments,
        instance: Any | None = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        if id_ in open_spans:
            with _ending:
                open_spans.pop(id_).end(None, err)


class Cancellations(BaseEventHandler):
    """Notes which spans were cancelled."""

    @classmethod
    def class_name(cls) -> str:
        return "Cancellations"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if type(event).__name__ == "SpanCancelledEvent":
            # The framework catches the exception within the span, and reports this instead.
            with _cancelling:
                if event.span_id is not None and (found := open_spans.get(event.span_id)) is not None:
                    found.cancelled = True
