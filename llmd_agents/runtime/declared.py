"""What one program has declared, as far as the rules need it: its tips, and its forks with their plans."""

from collections import OrderedDict
from dataclasses import dataclass, field

from .replication import Plan
from .tips import Tips

PLANS_MAX = 1_000
WORKFLOWS_MAX = 4_096

UNUSED_FORKS_MAX = 3
"""A workflow whose unused forks outnumber its used ones by as many gets nothing copied ahead any more."""


class ForkTrust:
    """How many of its forks each workflow has run; bounded, the least recently used is forgotten."""

    def __init__(self) -> None:
        self._balance: OrderedDict[str, int] = OrderedDict()

    def runs(self, workflow: str) -> bool:
        return self._balance.get(workflow, 0) > -UNUSED_FORKS_MAX

    def learn(self, workflow: str, used: int, unused: int) -> None:
        balance = self._balance.pop(workflow, 0) + used - unused
        self._balance[workflow] = max(-10 * UNUSED_FORKS_MAX, min(balance, UNUSED_FORKS_MAX))
        if len(self._balance) > WORKFLOWS_MAX:
            self._balance.popitem(last=False)


@dataclass(slots=True)
class DeclaredProgram:
    """One program.

    Attributes:
        plans: where the branches of each fork go.
        expected: plans made on a forecast, by the branch that the fork will start from.
        begun: of the forks that were declared or forecast, whether any branch has begun. One of a single
            branch, as a program is handed over to a tool, counts once it has: whether it will, nobody knows.
    """

    workflow: str
    tips: Tips = field(default_factory=Tips)
    plans: OrderedDict[str, Plan] = field(default_factory=OrderedDict)
    expected: dict[str, Plan] = field(default_factory=dict)
    begun: OrderedDict[str, bool] = field(default_factory=OrderedDict)

    def declare(self, fork: str, width: int, plan: Plan | None) -> None:
        if width > 1:
            self.begun.setdefault(fork, False)
        if len(self.begun) > PLANS_MAX:
            self.begun.popitem(last=False)
        if plan is not None:
            self.plans[fork] = plan
            if len(self.plans) > PLANS_MAX:
                self.plans.popitem(last=False)

    def begin(self, fork: str) -> None:
        self.begun[fork] = True

    def forks(self) -> tuple[int, int]:
        """Returns how many forks were used, and how many were announced and not used."""
        used = sum(self.begun.values())
        return used, len(self.begun) - used + len(self.expected)
