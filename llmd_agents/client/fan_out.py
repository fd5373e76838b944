"""A fork that an adapter declares, because its framework tells how many scopes are about to begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmd_agents.hints.limits import PARENTS_MAX

from .fork_block import ForkBlock
from .guard import guard

if TYPE_CHECKING:
    from llmd_agents.hints import Outcome

    from .branch import Branch


class FanOut:
    """So many scopes begin from one place, side by side. Made by `Scope.fan_out` and `expect_fan_out`.

    Until it is declared, nobody is told of it, and it leaves no trace if no step is made in it.

    Attributes:
        id: stands for all its branches among a step's parents, once joined.
        width: how many scopes were announced.
        started: how many have begun.
        joined: whether what follows waits for it.
    """

    def __init__(self, parent: Branch, width: int, name: str | None) -> None:
        self.parent = parent
        self.id = parent.run.fork_ids.next()
        self.width = width
        self.started = 0
        self.joined = False
        self._name = name
        self._parents = parent.frontier[-PARENTS_MAX:]
        self._block: ForkBlock | None = None  # once it is declared
        self._begun: list[Branch] = []
        self._over: set[Branch] = set()
        self._beside: list[str] = []

    @property
    def complete(self) -> bool:
        """Whether all that was announced has begun and ended."""
        return len(self._over) == self.width

    def declare(self) -> None:
        """Tells of the fork, if nobody has yet."""
        with guard:
            if self._block is not None:
                return
            self._block = block = ForkBlock(
                self.parent, self.id, self.width, self._name, "all", parents=self._parents
            )
            begun = list(self._begun)
        block.tell_declared()
        for branch in begun:
            branch.begin()

    def begin(self) -> Branch | None:
        """Returns the next branch; None if all have begun, or it was joined."""
        with guard:
            if self.joined or self.started >= self.width:
                return None
            branch = self.parent.child(self.id, self.started, self.width, self._parents)
            self.started += 1
            self._begun.append(branch)
            declared = self._block is not None
        if declared:
            branch.begin()
        return branch

    def end(self, branch: Branch, outcome: Outcome) -> None:
        """Ends one of the branches."""
        if self._has_steps(branch):
            self.declare()
        if self._block is not None:
            branch.end(outcome)
        with guard:
            self._over.add(branch)
            self._beside += branch.beside

    def join(self) -> None:
        """Lets what follows wait for the fork. `tell_joined` is called after it, outside of locks."""
        if self.joined:
            return
        self.joined = True
        if self._block is not None or any(map(self._has_steps, self._begun)):
            self.parent.join(self.id, self._parents, "all", self._beside)

    def tell_joined(self) -> None:
        """Tells of the join; branches that have not ended are given up."""
        if any(map(self._has_steps, self._begun)):
            self.declare()
        if self._block is None:
            return
        for branch in self._begun:
            if branch not in self._over:
                branch.end("abandoned")
        self._block.tell_joined()

    def _has_steps(self, branch: Branch) -> bool:
        return branch.begun or branch.frontier != self._parents
