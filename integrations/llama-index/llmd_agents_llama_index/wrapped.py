"""Methods of workflows that no span and no event tells of, wrapped while the adapter is installed."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.workflow import Context, Event, Workflow

from llmd_agents.client import faults

from .conversation import conversation, conversation_of
from .place import current_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from workflows.handler import WorkflowHandler


@faults("an event that was sent gives no hints")
def _note_sent(event: Event, step: str | None) -> None:
    if (place := current_place.get()) is not None:
        place.send(event, step)


@faults("what was collected gives no hints")
def _note_collected(event: Event, found: list[Event] | None) -> None:
    if (place := current_place.get()) is not None:
        place.collected(event, found)


@faults("a conversation gives no hints")
def _note_conversation(context: Context[Any] | None) -> None:
    conversation.set(conversation_of(context))


def _sending(method: Callable[..., None]) -> Callable[..., None]:
    @wraps(method)
    def send_event(self: Context[Any], message: Event, step: str | None = None) -> None:
        method(self, message, step)
        _note_sent(message, step)

    return send_event


def _collecting(method: Callable[..., list[Event] | None]) -> Callable[..., list[Event] | None]:
    @wraps(method)
    def collect_events(
        self: Context[Any], ev: Event, expected: list[type[Event]], buffer_id: str | None = None
    ) -> list[Event] | None:
        found = method(self, ev, expected, buffer_id)
        _note_collected(ev, found)
        return found

    return collect_events


def _running(method: Callable[..., WorkflowHandler]) -> Callable[..., WorkflowHandler]:
    @wraps(method)
    def run(
        self: Workflow, ctx: Context[Any] | None = None, start_event: Any = None, **kwargs: Any
    ) -> WorkflowHandler:
        # The run's task is made within, and keeps what is set here.
        before = conversation.set(None)
        _note_conversation(ctx)
        try:
            return method(self, ctx, start_event, **kwargs)
        finally:
            conversation.reset(before)

    return run


_WRAPPERS: Final[list[tuple[Any, str, Callable[[Any], Any]]]] = [
    (Context, "send_event", _sending),
    (Context, "collect_events", _collecting),
    (Workflow, "run", _running),
]

_wrapped: Final[dict[tuple[Any, str], tuple[Any, Any]]] = {}


def wrap() -> None:
    for owner, name, wrapper in _WRAPPERS:
        method = getattr(owner, name)
        wrapping = wrapper(method)
        setattr(owner, name, wrapping)
        _wrapped[owner, name] = method, wrapping


def unwrap() -> None:
    """Puts the methods back, but for those that others have wrapped since."""
    while _wrapped:
        (owner, name), (method, wrapping) = _wrapped.popitem()
        if getattr(owner, name) is wrapping:
            setattr(owner, name, method)
