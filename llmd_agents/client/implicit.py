"""Programs for clients that declare nothing: one per client, one branch per chain of context."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from llmd_agents.hints import Link

from .branch import Branch
from .frame import Frame
from .ids import Counter
from .prompt import Prompt
from .run import Run, program

IDLE_SECONDS = 600.0
BRANCHES_MAX = 1024


class ImplicitProgram:
    """Finds the branch that an undeclared call continues: the one whose context its messages extend.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._run: Run | None = None
        self._branches: OrderedDict[str, Branch] = OrderedDict()
        self._by_end: dict[bytes, str] = {}
        self._ends: dict[str, tuple[bytes, ...]] = {}
        self._ids = Counter("b")
        self._used_at = 0.0
        self._lock = threading.Lock()

    def prompts(self) -> list[Prompt]:
        """Returns the prompts that a new one may extend, the latest first."""
        return [] if self._run is None else self._run.context.prompts()

    def frame(self, links: list[Link]) -> Frame:
        with self._lock:
            now = self._clock()
            if self._run is not None and now - self._used_at > IDLE_SECONDS:
                self._run.finish("abandoned")
                self._forget()
            self._used_at = now
            if self._run is None:
                self._run = program(self._name)
                self._run.start()
            return Frame(self._continued(links) or self._begin(self._run))

    def answered(self, branch: Branch, *ends: bytes) -> None:
        """Notes how far the branch's context reaches now.

        Args:
            ends: digests by which a call may name that context.
        """
        with self._lock:
            if branch.id in self._branches:
                self._forget_ends(branch.id)
                self._by_end.update(dict.fromkeys(ends, branch.id))
                self._ends[branch.id] = ends

    def _continued(self, links: list[Link]) -> Branch | None:
        for link in reversed(links):
            branch_id = self._by_end.get(link.digest)
            if branch_id is not None:
                self._branches.move_to_end(branch_id)
                return self._branches[branch_id]
        return None

    def _forget_ends(self, branch_id: str) -> None:
        for end in self._ends.pop(branch_id, ()):
            self._by_end.pop(end, None)

    def _begin(self, run: Run) -> Branch:
        branch = Branch(run, self._ids.next())
        self._branches[branch.id] = branch
        if len(self._branches) > BRANCHES_MAX:
            oldest, given_up = self._branches.popitem(last=False)
            self._forget_ends(oldest)
            given_up.end("abandoned")
        return branch

    def _forget(self) -> None:
        self._run = None
        self._branches.clear()
        self._by_end.clear()
        self._ends.clear()
