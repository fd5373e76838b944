"""Where the events of workflows come from, kept beside them: what users see of an event stays as it is."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llama_index.core.workflow import Event

if TYPE_CHECKING:
    from llmd_agents.client import FanOut, Scope

    from .place import Place
    from .tool_round import ToolRound

ORIGINS_MAX: Final = 16_384


@dataclass(slots=True, eq=False)
class Origin:
    """What an event comes from, and what has started from it.

    Attributes:
        place: None if it came from outside of the run.
        fan_out: the fork that the steps which it starts are branches of.
        begun: the scope of the step that it starts, where that was opened ahead of the step.
        goes_on: whether the step that it starts is in the scope of its place.
        tools: the round of tool calls that it belongs to.
        attempts: by the step's name, its latest attempt: steps are run again after a failure, and after they
            have waited for a person.
        set_aside: the step that kept it for a later one to collect.
    """

    place: Place | None = None
    fan_out: FanOut | None = None
    begun: Scope | None = None
    goes_on: bool = False
    tools: ToolRound | None = None
    attempts: dict[str, Place] = field(default_factory=dict)
    set_aside: Place | None = None


class _Reference(weakref.ref[Event]):
    """To an event, which is no key itself: it equals others, and may change."""

    __slots__ = ("key",)
    key: int


class Origins:
    """The origin of each event that somebody still refers to; of more than `ORIGINS_MAX`, of the latest.

    It needs no lock: no two live events have one key, and each change is a single one of the dictionary's.
    """

    def __init__(self) -> None:
        self._origins: OrderedDict[int, tuple[_Reference, Origin]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._origins)

    def get(self, event: Event) -> Origin | None:
        found = self._origins.get(id(event))
        return found[1] if found is not None and found[0]() is event else None

    def put(self, event: Event, origin: Origin) -> None:
        reference = _Reference(event, self._forget)
        reference.key = key = id(event)
        self._origins.pop(key, None)
        self._origins[key] = reference, origin
        if len(self._origins) > ORIGINS_MAX:
            self._origins.popitem(last=False)

    def _forget(self, gone: _Reference) -> None:
        self._origins.pop(gone.key, None)


origins: Final = Origins()
