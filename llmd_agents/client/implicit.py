"""Programs for clients that declare nothing: one per client, one branch per chain of context."""

import time
from collections import OrderedDict
from collections.abc import Callable

from llmd_agents.hints import Link

from .branch import Branch
from .frame import Frame
from .guard import guard
from .ids import Counter
from .program import program
from .prompt import Prompt
from .run import Run

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

    def prompts(self) -> list[Prompt]:
        """Returns the prompts that a new one may extend, the latest first."""
        return [] if self._run is None else self._run.context.prompts()

    def frame(self, links: list[Link]) -> Frame:
        self._end_if_idle()
        run = self._run or self._begin()
        given_up = None
        with guard:
            branch = self._continued(links)
            if branch is None:
                branch = Branch(run, self._ids.next())
                self._branches[branch.id] = branch
                if len(self._branches) > BRANCHES_MAX:
                    given_up = self._branches.popitem(last=False)[1]
                    self._forget_ends(given_up.id)
        if given_up is not None:
            given_up.end("abandoned")
        return Frame(branch)

    def answered(self, branch: Branch, *ends: bytes) -> None:
        """Notes how far the branch's context reaches now.

        Args:
            ends: digests by which a call may name that context.
        """
        with guard:
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

    def _begin(self) -> Run:
        run = program(self._name)
        run.start()
        with guard:
            self._run = self._run or run  # of two threads that come here at once, the first begins it
            return self._run

    def _end_if_idle(self) -> None:
        with guard:
            now = self._clock()
            idle, self._used_at = now - self._used_at > IDLE_SECONDS, now
            run = self._run
            if run is None or not idle:
                return
            self._run, branches = None, list(self._branches.values())
            self._branches.clear()
            self._by_end.clear()
            self._ends.clear()
        run.finish("abandoned")
        for branch in branches:
            branch.settle("abandoned")
