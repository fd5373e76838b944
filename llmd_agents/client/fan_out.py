"""A fork that an adapter declares, because its framework tells how many scopes are about to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .guard import guard

if TYPE_CHECKING:
    from llmd_agents.hints import Outcome

    from .branch import Branch
    from .fork_block import ForkBlock


class FanOut:
    """So many scopes begin from one place, side by side. Made by `Scope.fan_out`.

    Attributes:
        id: stands for all its branches among a step's parents, once joined.
        width: how many scopes were announced.
        started: how many have begun.
        joined: whether what follows waits for it.
    """

    def __init__(self, parent: Branch, block: ForkBlock) -> None:
        self.parent = parent
        self.id = block.declared.fork
        self.width = block.declared.width
        self.started = 0
        self.joined = False
        self._block = block
        self._fork = block.__enter__()
        self._over: set[str] = set()
        self._beside: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether all that was announced has begun and ended."""
        return len(self._over) == self.width

    def begin(self) -> Branch | None:
        """Returns the next branch; None if all have begun, or it was joined."""
        with guard:
            if self.joined or self.started >= self.width:
                return None
            self.started += 1
            index = self.started - 1
        branch = self._fork.begin(index)
        branch.begin()
        return branch

    def end(self, branch: Branch, outcome: Outcome) -> None:
        """Ends one of the branches."""
        self._fork.end(branch, outcome)
        with guard:
            self._over.add(branch.id)
            self._beside += branch.beside

    def join(self) -> None:
        """Lets what follows wait for the fork. `tell_joined` is called after it, outside of locks."""
        if not self.joined:
            self.joined = True
            self.parent.join(self.id, self._block.declared.parents, "all", self._beside)

    def tell_joined(self) -> None:
        """Tells of the join; branches that have not ended are given up."""
        self._fork.close(failed=False)
        self._block.tell_joined()
