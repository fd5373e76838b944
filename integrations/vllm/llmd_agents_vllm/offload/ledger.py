"""What the host tier holds, who needs it when, and what goes first. No I/O, no clock, nothing of vLLM.

A branch's latest context is its *tip*. Where it ends, the tree of stretches carries the estimate of the
branch's next step; what it extends is needed as soon (`hints.eviction_order`). Dead is

- what a step declared to live no longer than itself, or than some seconds that are over;
- what only a branch used that has ended or was rewritten, apart from what outlives it;
- all that only an ended program used. A program ends with a last step on its main branch.

Whoever uses a stretch again brings it back to life. One that others used too, or a request without hints, is
dead by nobody's word.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeAlias

from llmd_agents.hints import ROOT_BRANCH, Budget, Estimate, Held, eviction_order, residual

from .declared import Declaration, Until
from .stretches import Stretch, Stretches

TipKey: TypeAlias = tuple[str | None, str, str, str | None]
"""Scope, program, branch, and the agent whose context it is."""

TIPS_MIN: Final = 1024
"""So many tips are kept however small the tier is; else as many as it has blocks."""

RANKING_VALID_S: Final = 0.25
"""An order holds for so long, at least: what was used since goes after all that was ranked."""

RANKED_PER_S: Final = 4000
"""An order of more stretches holds for longer, so that ranking takes a few percent of the time at most."""

PIECES_OF_BUDGET: Final = 16
"""Stretches longer than this part of the budget are ranked in pieces, so that it can keep their heads."""

PIECES_MAX: Final = 1024
"""A tier full of one context is ranked in no more pieces than this, however small the budget."""

AGAIN_AFTER: Final = 8
"""An order that runs out before its time is replaced once one part in so many of what it ranked has gone."""


@dataclass(slots=True, eq=False)
class Tip:
    """The end of a branch's latest context.

    Attributes:
        step: id of the step that left it.
        anchors: where it ends, in each group of the cache.
    """

    key: TipKey
    step: str
    estimate: Estimate | None
    anchors: list[Stretch]


@dataclass(slots=True)
class _Order:
    """An order while it is worked through: stretches, and how many keys of their tails; the next is last."""

    at: float
    valid_s: float
    queue: list[tuple[Stretch, int]] = field(default_factory=list)
    stretches: int = 0
    gone: int = 0


class Ledger:
    """The books of one host tier.

    Times are in seconds, on any clock that never goes back.

    Args:
        capacity: blocks that the tier holds.
        budget: blocks that estimates may keep beyond least-recently-used order.
        tenant_budget: of those, what each scope may keep.
    """

    def __init__(self, capacity: int, budget: float, tenant_budget: float = math.inf) -> None:
        self._capacity = capacity
        self._tips_max = max(TIPS_MIN, capacity)
        self._budget = budget
        self._tenant_budget = tenant_budget
        self._tree = Stretches(self._emptied)
        self._tips: OrderedDict[TipKey, Tip] = OrderedDict()
        self._programs: dict[tuple[str | None, str], dict[TipKey, Tip]] = {}
        self._estimated: dict[Tip, None] = {}
        self._directed: dict[Stretch, None] = {}
        self._timed: dict[Stretch, None] = {}
        self._dying: deque[Stretch] = deque()
        self._order: _Order | None = None

    def __len__(self) -> int:
        """Returns how many keys are in the books."""
        return len(self._tree)

    @property
    def entries(self) -> int:
        """All that the books hold, for checking that it is bounded."""
        queue = len(self._order.queue) if self._order is not None else 0
        tips = len(self._tips) + sum(len(tips) for tips in self._programs.values())
        return len(self._tree) + tips + len(self._estimated) + len(self._timed) + len(self._dying) + queue

    @property
    def silent(self) -> bool:
        """Whether least-recently-used order decides alone."""
        return not (self._dying or self._estimated or self._directed or self._timed)

    # --- what happens to keys

    def came(self, key: bytes, before: bytes | None, now: float) -> None:
        """A key has a place in the tier.

        Args:
            before: the key that it extends, if known.
        """
        self._tree.add(key, before, now)

    def went(self, key: bytes) -> None:
        self._tree.remove(key)
        if self._order is not None:
            self._order.gone += 1

    def touched(self, keys: Iterable[bytes], now: float) -> None:
        """Keys were used, by whom is not said."""
        used = {stretch: None for key in keys if (stretch := self._tree.get(key)) is not None}
        self._use({each: None for stretch in used for each in stretch.upwards()}, None, now)

    def cleared(self) -> None:
        self._tree.clear()
        for books in (self._tips, self._programs, self._estimated, self._directed, self._timed, self._dying):
            books.clear()
        self._order = None

    # --- what requests say

    def finished(
        self, paths: Sequence[Sequence[tuple[bytes, int]]], said: Declaration | None, now: float
    ) -> None:
        """A request has ended.

        Args:
            paths: for each group of the cache, the keys that the request stored or loaded, in their order,
                each with the tokens from the start of the prompt to its end.
            said: what its hints say; None without any.
        """
        held = [[(key, end) for key, end in path if key in self._tree] for path in paths]
        ends, used = self._touch([[key for key, _ in path] for path in held if path])
        self._use(used, said, now)
        if said is not None:
            for path in held:
                self._grant(path, said, now)
            # Where lives part, the stretches were cut.
            self._leave_tip(ends, said, now)
            for stretch in [each for end in ends for each in end.upwards() if each.dies_at <= now]:
                self._expire(stretch)
        for stretch in reversed([each for end in ends for each in end.upwards()]):
            if stretch.keys:
                self._tree.merge(stretch)

    # --- what others say

    def estimated(self, paths: Sequence[Sequence[bytes]], estimate: Estimate | None, now: float) -> None:
        """Sets when a context will be needed next; that outranks what its requests said. None, or an estimate
        of no weight, leaves it to least-recently-used order.

        Args:
            paths: the context's keys for each group of the cache, from its start on; those not held do not
                matter.
        """
        for held in self._held(paths):
            stretch = self._tree.cut(held[-1])
            stretch.directed_at = now
            if estimate is None or estimate.weight <= 0:
                stretch.directed = None
                self._directed.pop(stretch, None)
                for tip in stretch.tips.values():
                    tip.estimate = None
                    self._estimated.pop(tip, None)
            else:
                stretch.directed = estimate
                self._directed[stretch] = None
                self._revive(stretch.upwards())

    def released(self, paths: Sequence[Sequence[bytes]]) -> None:
        """Takes a part of a context, given as for `estimated`, for dead; what lives on after it keeps it
        alive."""
        for held in self._held(paths):
            wanted = set(held)
            for stretch in self._tree.cut(held[-1]).upwards():
                kept = next((key for key in reversed(stretch.keys) if key not in wanted), None)
                if kept is None:
                    self._bury(stretch)
                    continue
                if kept != stretch.last:
                    self._tree.cut(kept)
                    self._bury(stretch)
                break

    # --- what goes

    def victims(self, n: int, takable: Callable[[bytes], bool], now: float) -> list[bytes]:
        """Returns up to `n` keys to give up, in order; fewer where least-recently-used order is to decide.

        They stay in the books until `went`.
        """
        chosen: dict[bytes, None] = {}
        self._from_the_dead(n, takable, chosen)
        if len(chosen) < n and (self._estimated or self._directed or self._timed):
            order = self._order
            if order is not None and 0 <= now - order.at <= order.valid_s:
                self._from_order(order, n, takable, chosen)
                stale = order.gone + len(chosen) > order.stretches // AGAIN_AFTER
            else:
                stale = True
            if len(chosen) < n and stale:
                self._order = self._rank(now)
                self._from_the_dead(n, takable, chosen)  # whose time has come meanwhile
                self._from_order(self._order, n, takable, chosen)
        return list(chosen)

    def failed(self) -> None:
        """The victims were not given up after all."""
        self._order = None

    # --- inside: uses

    def _held(self, paths: Sequence[Sequence[bytes]]) -> list[list[bytes]]:
        held = [[key for key in path if key in self._tree] for path in paths]
        return [path for path in held if path]

    def _touch(self, paths: Sequence[Sequence[bytes]]) -> tuple[list[Stretch], dict[Stretch, None]]:
        """Puts what is known of the order of keys into the tree; returns where the paths end, and all
        stretches on them, from their start on."""
        ends: list[Stretch] = []
        used: dict[Stretch, None] = {}
        for path in paths:
            for before, key in pairwise(path):
                self._tree.join(before, key)
            ends.append(self._tree.cut(path[-1]))
        for path, end in zip(paths, ends, strict=True):
            used.update(dict.fromkeys(reversed(list(end.upwards()))))
            # A window over the context leaves gaps, so that not all of a path need hang together.
            used.update(dict.fromkeys(stretch for key in path if (stretch := self._tree.get(key))))
        return ends, used

    def _use(self, used: Iterable[Stretch], said: Declaration | None, now: float) -> None:
        used = list(used)
        self._revive(used)
        for stretch in used:
            stretch.last_used = now
            stretch.directed = None
            self._directed.pop(stretch, None)
            if said is None:
                stretch.shared = True
                continue
            user = (said.scope, said.program)
            if stretch.fresh:
                stretch.owner, stretch.branch, stretch.scope = user, said.branch, said.scope
            elif stretch.owner != user:
                stretch.shared = True
            elif stretch.branch != said.branch:
                stretch.branch = None

    def _revive(self, stretches: Iterable[Stretch]) -> None:
        for stretch in stretches:
            stretch.dead = False
            stretch.dies_at = math.inf
            self._timed.pop(stretch, None)

    def _grant(self, path: Sequence[tuple[bytes, int]], said: Declaration, now: float) -> None:
        """Gives the parts of a prompt the lives that were declared for them."""
        if not path or not said.lives:
            return
        total = path[-1][1]
        index = -1
        start = max(2 * path[0][1] - path[1][1], 0) if len(path) > 1 else 0
        parts: list[tuple[int, bytes]] = []  # for each part that has keys, its index and last key
        for key, end in path:
            while index < len(said.lives) and start >= total * _ends(said, index):
                index += 1
            if parts and parts[-1][0] == index:
                parts[-1] = (index, key)
            else:
                parts.append((index, key))
            start = end
        for position, (part, last) in enumerate(parts):
            if not 0 <= part < len(said.lives):
                continue
            before = self._tree.cut(parts[position - 1][1]) if position else None
            life = said.lives[part]
            for stretch in self._tree.cut(last).upwards():
                if stretch is before or stretch.last_used != now:
                    break
                self._live(stretch, said, life.until, life.seconds, now)

    def _live(self, stretch: Stretch, said: Declaration, until: Until, seconds: float, now: float) -> None:
        alone = _only(stretch, said, said.branch)
        if until is Until.TIME and alone:
            stretch.until, stretch.dies_at = until, now + seconds
            self._timed[stretch] = None
        elif alone and stretch.until is Until.TIME:
            stretch.until = until
        else:
            stretch.until = max(stretch.until, until)

    # --- inside: branches

    def _leave_tip(self, ends: Sequence[Stretch], said: Declaration, now: float) -> None:
        key = (said.scope, said.program, said.branch, said.agent)
        before = self._tips.get(key)
        if before is not None:
            self._drop(before)
        if said.ends:
            self._end(ends, said, now)
            return
        anchors = [
            anchor
            for end in ends
            if (anchor := next((each for each in end.upwards() if each.dies_at > now), None)) is not None
        ]
        if before is not None and before.step in said.follows:
            self._rewritten(before, ends, said, now)
        if not anchors:
            return
        estimate = said.estimate(now)
        tip = self._tips[key] = Tip(key, said.step, estimate, anchors)
        self._programs.setdefault(key[:2], {})[key] = tip
        if estimate is not None and estimate.weight > 0:
            self._estimated[tip] = None
        for anchor in anchors:
            anchor.tips[key] = tip
        if len(self._tips) > self._tips_max:
            self._drop(next(iter(self._tips.values())))

    def _drop(self, tip: Tip) -> None:
        del self._tips[tip.key]
        self._estimated.pop(tip, None)
        of_program = self._programs[tip.key[:2]]
        del of_program[tip.key]
        if not of_program:
            del self._programs[tip.key[:2]]
        for anchor in tip.anchors:
            anchor.tips.pop(tip.key, None)

    def _end(self, ends: Sequence[Stretch], said: Declaration, now: float) -> None:
        """A branch has had its last step, and with the main one its program."""
        if said.branch != ROOT_BRANCH:
            for end in ends:
                self._give_up(end, said, said.branch, Until.BRANCH)
            return
        anchors = list(ends)
        for tip in list(self._programs.get((said.scope, said.program), {}).values()):
            anchors += tip.anchors
            self._drop(tip)
        for anchor in anchors:
            self._give_up(anchor, said, None, Until.PROGRAM)

    def _rewritten(self, before: Tip, ends: Sequence[Stretch], said: Declaration, now: float) -> None:
        """Gives up what a branch left behind when its next step kept the beginning of its context alone."""
        now_used = {stretch for end in ends for stretch in end.upwards()}
        for anchor in before.anchors:
            path = list(anchor.upwards())
            if path[0] not in now_used and path[-1] in now_used:
                self._give_up(anchor, said, said.branch, Until.BRANCH, spared=now_used)

    def _give_up(
        self,
        end: Stretch,
        said: Declaration,
        branch: str | None,
        until: Until,
        spared: Iterable[Stretch] = (),
    ) -> None:
        """Buries what only the program, or only its branch, used on a path and after it, unless it outlives
        them or some other tip is there."""
        for stretch in end.upwards():
            if stretch in spared:
                break
            if stretch.dead:
                continue
            if stretch.tips or stretch.until > until or not _only(stretch, said, branch):
                break
            if stretch is end:
                for each in reversed(stretch.downwards(lambda each: _only(each, said, branch))[1:]):
                    if not each.tips and each.until <= until:
                        self._bury(each)
            self._bury(stretch)

    def _expire(self, stretch: Stretch) -> None:
        """The declared life of a stretch is over; branches whose context ends there go on without it."""
        self._timed.pop(stretch, None)
        self._hand_up(stretch)
        self._bury(stretch)

    def _bury(self, stretch: Stretch) -> None:
        stretch.dead = True
        stretch.directed = None
        self._directed.pop(stretch, None)
        for tip in list(stretch.tips.values()):
            self._drop(tip)
        for each in stretch.upwards():  # it may have been all that kept the dead before it
            if not each.dead:
                break
            self._dying.append(each)
        if len(self._dying) > 2 * len(self._tree) + 64:
            self._dying = deque(dict.fromkeys(each for each in self._dying if each.dead and each.keys))

    def _emptied(self, stretch: Stretch) -> None:
        parent = stretch.parent
        self._timed.pop(stretch, None)
        self._hand_up(stretch)
        stretch.dead = False
        if parent is not None and parent.dead:
            self._dying.append(parent)

    def _hand_up(self, stretch: Stretch) -> None:
        """What is left of a context is needed as soon as the whole."""
        parent = stretch.parent
        if stretch in self._directed:
            del self._directed[stretch]
            if parent is not None and parent.directed is None:
                parent.directed, parent.directed_at = stretch.directed, stretch.directed_at
                self._directed[parent] = None
            stretch.directed = None
        for tip in list(stretch.tips.values()):
            tip.anchors.remove(stretch)
            if parent is not None and tip.key not in parent.tips:
                parent.tips[tip.key] = tip
                tip.anchors.append(parent)
            if not tip.anchors:
                self._drop(tip)
        stretch.tips = {}

    # --- inside: what goes

    def _from_the_dead(self, n: int, takable: Callable[[bytes], bool], chosen: dict[bytes, None]) -> None:
        postponed: list[Stretch] = []
        while self._dying and len(chosen) < n:
            stretch = self._dying[0]
            if not stretch.dead or not stretch.keys:
                self._dying.popleft()
                continue
            if stretch.carries_life:
                self._dying.popleft()
                continue
            if not _take(stretch, len(stretch.keys), n, takable, chosen) and len(chosen) < n:
                postponed.append(stretch)
            if len(chosen) < n:
                self._dying.popleft()
        self._dying.extend(postponed)

    def _from_order(
        self, order: _Order, n: int, takable: Callable[[bytes], bool], chosen: dict[bytes, None]
    ) -> None:
        while order.queue and len(chosen) < n:
            stretch, count = order.queue.pop()
            if not stretch.keys or stretch.last_used > order.at or stretch.directed_at > order.at:
                continue
            had = len(chosen)
            _take(stretch, count, n, takable, chosen)
            if len(chosen) == n and (left := count - (n - had)) > 0:
                order.queue.append((stretch, left))

    def _rank(self, now: float) -> _Order:
        for stretch in [each for each in self._timed if each.dies_at <= now]:
            self._expire(stretch)
        for tip in [tip for tip in self._estimated if tip.estimate is None or now >= tip.estimate.expires_at]:
            tip.estimate = None
            del self._estimated[tip]
        for stretch in [each for each in self._directed if each.directed and now >= each.directed.expires_at]:
            stretch.directed = None
            del self._directed[stretch]
        piece = max(int(self._budget / PIECES_OF_BUDGET), self._capacity // PIECES_MAX, 1)
        held: list[Held] = []
        parts: list[tuple[Stretch, int]] = []
        ends: dict[Stretch, int] = {}  # index of the last piece
        for stretch in self._tree:
            parent = ends.get(stretch.parent) if stretch.parent is not None else None
            estimate = _soonest(stretch, now)
            left = len(stretch.keys)
            while left:
                size = min(piece, left)
                left -= size
                held.append(
                    Held(
                        parent,
                        size,
                        stretch.last_used,
                        dead=stretch.dead,
                        estimate=estimate,
                        scope=stretch.scope,
                    )
                )
                parts.append((stretch, size))
                parent = len(held) - 1
            if parent is not None:
                ends[stretch] = parent
        order = eviction_order(held, now, Budget(self._budget, each_scope=self._tenant_budget))
        return _Order(
            at=now,
            valid_s=max(RANKING_VALID_S, len(held) / RANKED_PER_S),
            queue=[parts[index] for index in reversed(order)],
            stretches=len(held),
        )


def _ends(said: Declaration, index: int) -> float:
    return said.since if index < 0 else said.lives[index].end


def _only(stretch: Stretch, said: Declaration, branch: str | None) -> bool:
    """Returns whether nobody used it but a program, and of that only a branch if one is named."""
    return (
        not stretch.shared
        and stretch.owner == (said.scope, said.program)
        and (branch is None or stretch.branch == branch)
    )


def _take(
    stretch: Stretch, count: int, n: int, takable: Callable[[bytes], bool], chosen: dict[bytes, None]
) -> bool:
    """Adds up to `count` keys from a stretch's tail to those that were chosen, until there are `n`; returns
    False where it had to stop at one that cannot go."""
    for key in reversed(stretch.keys):
        if len(chosen) >= n or not count:
            return True
        if key in chosen:
            continue
        if not takable(key):
            return False
        chosen[key] = None
        count -= 1
    return True


def _soonest(stretch: Stretch, now: float) -> Estimate | None:
    if stretch.directed is not None:
        return stretch.directed
    estimates = [tip.estimate for tip in stretch.tips.values() if tip.estimate is not None]
    if len(estimates) < 2:
        return estimates[0] if estimates else None
    return min(estimates, key=lambda estimate: residual(estimate, stretch.last_used, now))
