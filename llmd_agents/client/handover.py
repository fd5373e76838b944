"""Handing a program over to another process or service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmd_agents.hints import HINTS_HEADER, ForkPosition, encode_hints
from llmd_agents.hints.drafts import HintsDraft, StepDraft

from . import quiet
from .fork_block import ForkBlock
from .frame import ENVIRONMENT_VARIABLE, current_frame

if TYPE_CHECKING:
    from types import TracebackType

    from .branch import Branch

META_KEY: Final = "llmd-agents/hints"
BAGGAGE_KEY: Final = "llmd-program"


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What another process or service needs to know to go on with a program.

    Attributes:
        headers: for an HTTP request.
        environment: for a subprocess, beside `os.environ`.
        meta: for the `_meta` of an MCP request.
    """

    headers: dict[str, str]
    environment: dict[str, str]
    meta: dict[str, str]


_NOTHING = HandedOver({}, {}, {})


class HandOverBlock:
    """What `run.hand_over` returns: the program goes on elsewhere while the block runs."""

    def __init__(self, parent: Branch, fork_id: str, name: str | None) -> None:
        self._parent = parent
        self._block = ForkBlock(parent, fork_id, 1, name, "all")
        self._entered = False
        self._withdrawn = False

    def withdraw(self) -> None:
        """Says that nothing was done with the program elsewhere, nor will be: nothing waits for the block.

        Call it before the block is left, where the other side tells.
        """
        self._withdrawn = True

    def __enter__(self) -> HandedOver:
        if self._entered:
            raise RuntimeError("the program was handed over already; each hand-over is one block")
        self._entered = True
        # None of the fork's branches ever runs here: there is nothing to begin, and nothing to end.
        self._block.tell_declared()
        return _handed_over(self._parent, self._block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._withdrawn:
            self._block.tell_withdrawn()
        else:
            self._block.join()

    async def __aenter__(self) -> HandedOver:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def _handed_over(parent: Branch, block: ForkBlock) -> HandedOver:
    with quiet.faults("the program is not handed over"):
        declared = block.declared
        branch = f"{declared.fork}.0"
        position = ForkPosition(id=declared.fork, index=0, width=1)
        step = StepDraft(
            id=branch,
            branch=branch,
            kind=None,
            model=None,
            agent=None,
            parents=declared.parents,
            join=parent.next_join,
            fork=position,
            loop=None,
        )
        value = encode_hints(HintsDraft(parent.run.declared, step, extends=None, segments=(), forecast=None))
        return HandedOver({HINTS_HEADER: value}, {ENVIRONMENT_VARIABLE: value}, {META_KEY: value})
    return _NOTHING


def _hand_over_here() -> HandedOver:
    inside = current_frame()
    if inside is None:
        return _NOTHING
    block = inside.branch.run.hand_over()
    return block.__enter__()  # never joined: nothing here waits for what happens there


def current_headers() -> dict[str, str]:
    """Returns headers that hand the program over to the service that a request goes to; none outside of one.

    Each call hands over another branch, which no step here waits for; `run.hand_over` is the block for that.
    Send them only to services that you trust with the program's ids.
    """
    return _hand_over_here().headers


def current_environment() -> dict[str, str]:
    """Returns variables that hand the program over to a subprocess: `env={**os.environ, **…}`. Else as
    `current_headers`."""
    return _hand_over_here().environment


def current_meta() -> dict[str, str]:
    """Returns a request's `_meta` that hands the program over to an MCP server. Else as `current_headers`."""
    return _hand_over_here().meta


def current_baggage() -> str | None:
    """Returns the one member of W3C baggage that names the program, `llmd-program=<id>`; None outside of one.

    It says nothing else of the program, and is read only by a `continue_program` that asks for it.
    """
    inside = current_frame()
    return None if inside is None else f"{BAGGAGE_KEY}={inside.branch.run.id}"
