"""Which engines are sent a `priority`, the field in vLLM's body by which it orders its queue.

vLLM runs a lower number earlier, programs matter more by a higher one. Where an engine refuses the field, no
call may be refused for it: calls carry it only where the engine is known to take it. That is configured, or
learned from warm-ups, whose refusal harms nobody.
"""

from collections.abc import Mapping
from typing import Final

from llmd_agents.hints import DEFAULT_PRIORITY
from llmd_agents.runtime.reading import is_plain_json_object

from .bodies import splice
from .config import EngineConfig
from .upstream import Answer, Outgoing

PRIORITY_HEADER: Final = "x-vllm-priority"
"""In vLLM it wins over the body."""


class Priorities:
    """What is known of each engine, by name; what was learned holds until the engine is another."""

    def __init__(self, engines: Mapping[str, EngineConfig]) -> None:
        self._configured = {name: config.priority for name, config in engines.items()}
        self._learned: dict[str, bool] = {}

    def may_try(self, engine: str) -> bool:
        """Returns whether a request that may well be refused should carry one."""
        return self._configured[engine] is not False and self._learned.get(engine, True)

    def taken(self, engine: str) -> bool:
        """Returns whether the engine is known to take it."""
        return self.may_try(engine) and (self._configured[engine] is True or engine in self._learned)

    def accepted(self, engine: str) -> None:
        """Notes that the engine has answered a request with one that is not 0."""
        self._learned[engine] = True

    def refused(self, engine: str) -> None:
        self._learned[engine] = False

    def forget(self, engine: str) -> None:
        """Notes that the engine may have restarted with other options."""
        self._learned.pop(engine, None)


def engine_priority(priority: int) -> int:
    """Returns the number for an engine: 0, as of requests without any, for programs that declare none."""
    return DEFAULT_PRIORITY - priority


def with_priority(request: Outgoing, number: int) -> Outgoing | None:
    """Returns the request with a `priority` in place of the client's; None if its body cannot be added to."""
    encoded = any(name.lower() == "content-encoding" for name, _ in request.headers)
    if request.body is None or encoded or not is_plain_json_object(request.body):
        return None
    body = splice(request.body, {"priority": number})
    return Outgoing(request.method, request.path, without_priority(request.headers), body)


def without_priority(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple(item for item in headers if item[0].lower() != PRIORITY_HEADER)


def refuses_priority(answer: Answer) -> bool:
    """Returns whether an engine refuses a request on account of its priority, for all that can be told."""
    return 400 <= answer.status < 500 and answer.whole and b"priority" in answer.body.lower()
