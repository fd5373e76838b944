"""Which steps an event starts, as a workflow routes it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_index.core.workflow import Event, Workflow


class Routing:
    """Of one class of workflows. To list its steps takes long, since all that the class has is searched."""

    def __init__(self, kind: type[Workflow]) -> None:
        self.version = kind._step_functions_version
        self._steps = kind._get_steps_from_class()
        self._started_by: dict[type[Event], list[str]] = {}

    def steps_for(self, event: Event) -> list[str]:
        """Returns the names of the steps that an event starts, each by itself."""
        kind = type(event)
        if kind not in self._started_by:
            self._started_by[kind] = [
                name for name, step in self._steps.items() if _starts(kind, step._step_config)
            ]
        return self._started_by[kind]


_known: weakref.WeakKeyDictionary[type[Workflow], Routing] = weakref.WeakKeyDictionary()


def routing_of(kind: type[Workflow]) -> Routing:
    known = _known.get(kind)
    # Steps that are plain functions may be added to a class at any time.
    if known is None or known.version != kind._step_functions_version:
        _known[kind] = known = Routing(kind)
    return known


def _starts(kind: type[Event], config: Any) -> bool:
    # Steps that take several events, or all of a list, begin once for many of them.
    if config.collect_params is not None or config.collection_param is not None:
        return False
    if config.accept_event_subclasses:
        return any(isinstance(one, type) and issubclass(kind, one) for one in config.accepted_events)
    return any(kind is one for one in config.accepted_events)
