"""What the steps of one branch have left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .compaction import Conversations
from .guard import guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmd_agents.hints import Link, Outcome

    from .steps import PendingStep


OPEN_MAX = 256


class Trail:
    """The steps that are not over, and what is known of their context.

    Attributes:
        newest: the step that began last.
        conversations: the chains that the branch's steps have sent.
    """

    def __init__(self) -> None:
        self.newest: PendingStep | None = None
        self.conversations = Conversations()
        self._told: dict[str, Sequence[Link]] = {}
        self._open: dict[PendingStep, None] = {}

    def known_links(self, server: str, links: Sequence[Link]) -> int:
        """Returns how many leading links of a chain the server has been told of on this branch."""
        known = self._told.get(server, ())
        count = min(len(known), len(links))
        # A digest names everything before it, so the first match from the end is the whole answer.
        while count and known[count - 1].digest != links[count - 1].digest:
            count -= 1
        return count

    def told(self, server: str, links: Sequence[Link]) -> None:
        """Takes note that a server knows a chain now."""
        self._told[server] = links

    def forget_told(self, server: str) -> None:
        """Takes note that a server knows nothing of the branch's context any more."""
        self._told.pop(server, None)

    def open(self, step: PendingStep) -> None:
        with guard:
            self.newest = step
            self._open[step] = None
        if len(self._open) > OPEN_MAX:
            self._settle_failed()

    def close(self, step: PendingStep) -> None:
        with guard:
            self._open.pop(step, None)

    def settle(self, outcome: Outcome) -> None:
        """Ends all steps that are not over: the branch has ended."""
        for step in list(self._open):
            step.settle(outcome)

    def _settle_failed(self) -> None:
        for step in list(self._open):
            if step.record.outcome is not None:
                step.settle()
