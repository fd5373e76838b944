"""The keys of the host tier as a tree of stretches.

A key names a block and all that precedes it, so what it extends never changes. A *stretch* is a run of held
keys that are used together; another one may only begin where it ends.

    ──[ system prompt ]──┬──[ turn 1 ]──[ turn 2 ]
                         └──[ turn 1' ]
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmd_agents.hints import Estimate

from .declared import Until

if TYPE_CHECKING:
    from .ledger import Tip, TipKey


@dataclass(slots=True, eq=False)
class Stretch:
    """Keys that follow one another, and what is known of them.

    Attributes:
        keys: from head to tail.
        last_used: seconds.
        owner, branch: scope and id of the program that used it, and its branch; None if several of them did.
        shared: others used it as well, or somebody who did not say who.
        until, dies_at: what ends its life; `dies_at` only for `Until.TIME`.
        dead: nobody will use it again, going by its owner's word.
        directed: an estimate from outside the requests; it holds until the next use.
        directed_at: when that came.
        tips: the branches whose context ends here.
    """

    keys: dict[bytes, None]
    parent: "Stretch | None"
    last_used: float
    children: "dict[Stretch, None]" = field(default_factory=dict)
    owner: tuple[str | None, str] | None = None
    branch: str | None = None
    shared: bool = False
    until: Until = Until.BRANCH
    dies_at: float = math.inf
    dead: bool = False
    scope: str | None = None
    directed: Estimate | None = None
    directed_at: float = -math.inf
    tips: "dict[TipKey, Tip]" = field(default_factory=dict)

    @property
    def fresh(self) -> bool:
        """No request that used it has ended yet."""
        return self.owner is None and not self.shared

    @property
    def first(self) -> bytes:
        return next(iter(self.keys))

    @property
    def last(self) -> bytes:
        return next(reversed(self.keys))

    def upwards(self) -> "Iterator[Stretch]":
        """Yields itself and all that it extends."""
        at: Stretch | None = self
        while at is not None:
            yield at
            at = at.parent

    def downwards(self, through: "Callable[[Stretch], bool]") -> "list[Stretch]":
        """Returns itself and what extends it, each before what extends it, as far as a condition holds."""
        found = [self]
        for stretch in found:  # grows meanwhile
            found += [child for child in stretch.children if through(child)]
        return found

    @property
    def carries_life(self) -> bool:
        """Whether something that is not dead extends it."""
        below = [iter(self.children)]
        while below:
            child = next(below[-1], None)
            if child is None:
                below.pop()
            elif not child.dead:
                return True
            else:
                below.append(iter(child.children))
        return False

    def alike(self, other: "Stretch") -> bool:
        """Returns whether nothing that is known tells the two apart."""
        return (
            self.last_used == other.last_used
            and self.owner == other.owner
            and self.branch == other.branch
            and self.shared == other.shared
            and self.until == other.until
            and self.dies_at == other.dies_at
            and self.dead == other.dead
            and self.scope == other.scope
        )


class Stretches:
    """The tree; each key is in exactly one stretch.

    Args:
        emptied: called with a stretch that has no keys left, while it still knows what it extended.
    """

    def __init__(self, emptied: Callable[[Stretch], None]) -> None:
        self._of: dict[bytes, Stretch] = {}
        self._roots: dict[Stretch, None] = {}
        self._emptied = emptied

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, key: bytes) -> bool:
        return key in self._of

    def __iter__(self) -> Iterator[Stretch]:
        """Yields all stretches, each before what extends it."""
        found = list(self._roots)
        for stretch in found:  # grows meanwhile
            found += stretch.children
        return iter(found)

    def get(self, key: bytes) -> Stretch | None:
        return self._of.get(key)

    def add(self, key: bytes, before: bytes | None, now: float) -> None:
        """Takes a key in, after the one that it extends, if that is known and held."""
        if key in self._of:
            return
        parent = self._of.get(before) if before is not None else None
        if parent is not None and before is not None:
            parent = self.cut(before)
            if parent.fresh and not parent.children:
                parent.keys[key] = None
                self._of[key] = parent
                return
        stretch = Stretch({key: None}, None, now)
        self._attach(stretch, parent)
        self._of[key] = stretch

    def join(self, before: bytes, key: bytes) -> None:
        """Puts the stretch that begins with a key after the one that it extends, unless it has a place."""
        stretch, above = self._of[key], self._of[before]
        if stretch is above or stretch.parent is not None or stretch.first != key:
            return
        if any(each is stretch for each in above.upwards()):
            return
        del self._roots[stretch]
        self._attach(stretch, self.cut(before))

    def cut(self, key: bytes) -> Stretch:
        """Returns the stretch that ends with a key; the one that it was in keeps what follows."""
        stretch = self._of[key]
        if stretch.last == key:
            return stretch
        head = Stretch(
            {},
            None,
            stretch.last_used,
            owner=stretch.owner,
            branch=stretch.branch,
            shared=stretch.shared,
            until=stretch.until,
            dies_at=stretch.dies_at,
            dead=stretch.dead,
            scope=stretch.scope,
        )
        for each in stretch.keys:
            head.keys[each] = None
            self._of[each] = head
            if each == key:
                break
        for each in head.keys:
            del stretch.keys[each]
        # A dictionary keeps the places of what was deleted from its front.
        stretch.keys = dict(stretch.keys)
        parent = stretch.parent
        self._detach(stretch)
        self._attach(head, parent)
        self._attach(stretch, head)
        return head

    def merge(self, stretch: Stretch) -> Stretch:
        """Returns the stretch in which its keys are once it is put together with what it extends, if nothing
        tells the two apart and nobody's context ends between them."""
        parent = stretch.parent
        if parent is None or len(parent.children) > 1 or parent.tips or parent.directed is not None:
            return stretch
        if not parent.alike(stretch):
            return stretch
        for key in stretch.keys:
            self._of[key] = parent
        parent.keys |= stretch.keys
        stretch.keys = {}
        for child in list(stretch.children):
            self._detach(child)
            self._attach(child, parent)
        self._emptied(stretch)
        self._detach(stretch)
        return parent

    def remove(self, key: bytes) -> None:
        """Takes a key out; what extends its stretch is put to what that extended once it is empty."""
        stretch = self._of.pop(key, None)
        if stretch is None:
            return
        del stretch.keys[key]
        if stretch.keys:
            return
        parent = stretch.parent
        for child in list(stretch.children):
            self._detach(child)
            self._attach(child, parent)
        self._emptied(stretch)
        self._detach(stretch)

    def clear(self) -> None:
        self._of.clear()
        self._roots.clear()

    def _attach(self, stretch: Stretch, parent: Stretch | None) -> None:
        stretch.parent = parent
        if parent is None:
            self._roots[stretch] = None
        else:
            parent.children[stretch] = None

    def _detach(self, stretch: Stretch) -> None:
        if stretch.parent is None:
            del self._roots[stretch]
        else:
            del stretch.parent.children[stretch]
            stretch.parent = None
