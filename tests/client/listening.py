"""A sender and an observer that keep what a program tells them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from llmd_agents.client import Run, observer, program
from llmd_agents.client.history import History, ToolRecord
from llmd_agents.client.sender import Credential, Sender
from llmd_agents.hints import Event, ToolFinished, ToolStarted


class Listener:
    """Takes the events of a program, which need no server then."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def put(self, make: Callable[[], Event], credential: Credential) -> None:
        self.events.append(make())

    @property
    def idle(self) -> bool:
        return True

    def hurry(self) -> None: ...

    def flush(self, timeout: float) -> bool:
        return True

    @property
    def started(self) -> list[ToolStarted]:
        return [event for event in self.events if isinstance(event, ToolStarted)]

    @property
    def finished(self) -> list[ToolFinished]:
        return [event for event in self.events if isinstance(event, ToolFinished)]

    @property
    def tools(self) -> list[str]:
        """The events of tools in order: `+search` and `-search ok`."""
        told = []
        for event in self.events:
            if isinstance(event, ToolStarted):
                told.append(f"+{event.tool}")
            elif isinstance(event, ToolFinished):
                told.append(f"-{event.tool} {event.outcome}")
        return told


@contextmanager
def listening(name: str = "p") -> Iterator[tuple[Run, Listener]]:
    """Runs a program whose events are kept."""
    listener: Sender = Listener()
    with program(name) as run:
        run.outbox.add_sender(listener, {})
        assert isinstance(listener, Listener)
        yield run, listener


class ToolObserver:
    """Makes the tool that runs current, as telemetry does with its span."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.current: ContextVar[str | None] = ContextVar("current tool", default=None)
        self._tokens: dict[ToolRecord, Token[str | None]] = {}

    def tool_started(self, history: History, tool: ToolRecord) -> None:
        self._tokens[tool] = self.current.set(tool.call)
        self.told.append(f"+{tool.tool}")

    def tool_ended(self, history: History, tool: ToolRecord) -> None:
        self.current.reset(self._tokens.pop(tool))
        self.told.append(f"-{tool.tool} {tool.outcome}")

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@contextmanager
def observing(watcher: Any) -> Iterator[None]:
    """Adds an observer while the block runs."""
    observer._observers.append(watcher)
    try:
        yield
    finally:
        observer._observers.remove(watcher)
