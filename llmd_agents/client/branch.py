"""A branch: one linear chain of context, and where it stands in the program's graph."""

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmd_agents.hints import ForkPosition, Link, LoopPosition
from llmd_agents.hints.frontier import advance

if TYPE_CHECKING:
    from .run import Run


class Branch:
    """The state that consecutive steps of a branch share.

    `frontier` holds the ids that the next step depends on. A step that is answered takes the place of its
    parents there, and so does a fork when it is joined. Calls in sequence thus form a chain, calls that
    overlap become siblings, and whatever follows them depends on all of them.
    """

    def __init__(
        self,
        run: "Run",
        branch_id: str,
        *,
        parents: Iterable[str] = (),
        fork: ForkPosition | None = None,
    ) -> None:
        self.run = run
        self.id = branch_id
        self.fork = fork
        self.loops: list[LoopPosition] = []
        self._frontier = tuple(parents)
        self._known: dict[str, list[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def frontier(self) -> tuple[str, ...]:
        return self._frontier

    def advance(self, done: str, parents: Iterable[str]) -> None:
        """Puts a finished step or fork in the place of what it depended on."""
        with self._lock:
            self._frontier = advance(self._frontier, done, parents)

    def known_links(self, server: str, links: Sequence[Link]) -> int:
        """Returns how many leading links of a chain the server has been told of on this branch."""
        known = self._known.get(server, [])
        count = min(len(known), len(links))
        # A digest names everything before it, so the first match from the end is the whole answer.
        while count and known[count - 1] != links[count - 1].digest:
            count -= 1
        return count

    def told(self, server: str, links: Sequence[Link]) -> None:
        self._known[server] = [link.digest for link in links]

    def forget_told(self, server: str) -> None:
        self._known.pop(server, None)
