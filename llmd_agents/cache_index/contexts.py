"""What the cache knows of contexts: the mapping from chain digests to blocks, and how much each matters.

Two trees over each other. *Runs* are stretches of block hashes, each block in exactly one run; a run ends
where a digest ends or where contexts part ways. *Names* are chain digests in a scope; each ends with a run,
or less than a block after it, and extends the name before it in the request that brought it.

    runs    ──[ system prompt ]──┬──[ turn 1 ]──[ reply: no name yet ]
                                 └──[ turn 1' ]
    names        s                    a                                     a and a' extend s
                                      a'

A run is forgotten, and its names with it, once none of its blocks is in any tier and nothing extends it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from llmd_agents.hints import Estimate

from .residency import Residency

NAMES_PER_RUN_MAX: Final = 1024
"""Beyond it the oldest digests that end within one block of the same run are forgotten."""


@dataclass(slots=True, eq=False)
class Name:
    """A chain digest in a scope.

    Attributes:
        tokens: from the start of the prompt to its end.
        users: running requests that name it.
        extended: names that extend it.
        living: those of them that are not dead.
        dead: released, or of a reply, and not used since.
        estimate: of its next use; None from that use on.
    """

    digest: bytes
    scope: str | None
    tokens: int
    run: "Run"
    parent: "Name | None"
    users: int = 0
    extended: int = 0
    living: int = 0
    dead: bool = False
    estimate: Estimate | None = None


@dataclass(slots=True, eq=False)
class Run:
    """A stretch of blocks that are only ever used in this order, after those of `parent`.

    Attributes:
        end: blocks from the start of the prompt to the end of this run.
        tail_of: the last name of the request that computed it, for a run without names or with names of
            replies alone.
        missing: for each level, own blocks that are neither there nor on a level before.
        resident: for each level, whether this run and all before it can be served from there.
        present: own blocks that are on any level.
        last_used: modelled seconds.
        dead: nobody will use it again, nor anything that extends it.
    """

    parent: "Run | None"
    blocks: list[bytes]
    end: int
    missing: list[int]
    resident: list[bool]
    last_used: float
    tail_of: Name | None = None
    present: int = 0
    dead: bool = False
    children: "dict[Run, None]" = field(default_factory=dict)
    names: dict[bytes, Name] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.end - len(self.blocks)

    @property
    def estimates(self) -> list[Estimate]:
        """Of its names; a run that is part of a reply goes with the name that it follows."""
        found = [name.estimate for name in self.names.values() if name.estimate is not None]
        if self.tail_of is not None and self.tail_of.estimate is not None:
            found.append(self.tail_of.estimate)
        return found


class CacheUser(Protocol):
    """A request that holds blocks, as the contexts see it.

    Attributes:
        hashes: of its first full blocks, as far as they are known.
        registered: blocks, from the start, that can be found in the cache.
        boundary: index of the first of its boundaries that `registered` blocks do not cover.
        names: those of its boundaries that `registered` blocks cover and that have a full block.
    """

    registered: int
    boundary: int
    names: list[Name]

    @property
    def hashes(self) -> Sequence[bytes]: ...

    @property
    def boundaries(self) -> Sequence[tuple[bytes, int]]:
        """Chain digests, as (digest, tokens from the start), ascending."""
        ...

    @property
    def scope(self) -> str | None:
        """Of its digests (`hints.residency_scope`)."""
        ...


SplitWatcher = Callable[[Run, Run], None]
"""Called with a run and the new one that took its first blocks."""


class Contexts:
    """The contexts of one engine.

    Levels count from the device, 0, through the lower tiers that there are; one past the last means gone.

    Args:
        block_size: tokens per block.
        residency: told of every name that comes to or leaves a level.
        in_use: whether a request holds a block of that hash.
    """

    def __init__(self, block_size: int, residency: Residency, in_use: Callable[[bytes], bool]) -> None:
        self.version = 0
        """Counts what changes the order of eviction without touching a block."""
        self.estimated: dict[Name, None] = {}
        self.dead: dict[Run, None] = {}
        self.runs: dict[Run, None] = {}
        self._block_size = block_size
        self._residency = residency
        self._in_use = in_use
        self._levels = len(residency.tiers)
        self._runs: dict[bytes, Run] = {}
        self._level: dict[bytes, int] = {}
        self._names: dict[tuple[bytes, str | None], dict[Name, None]] = {}
        self._split_watchers: list[SplitWatcher] = []

    @property
    def gone(self) -> int:
        """The level of what is nowhere."""
        return self._levels

    def on_split(self, watcher: SplitWatcher) -> None:
        self._split_watchers.append(watcher)

    def run_of(self, block_hash: bytes) -> Run:
        return self._runs[block_hash]

    def shared_blocks(self, name: Name, hashes: Sequence[bytes], known: dict[Run, int]) -> int:
        """Returns how many full blocks a prompt shares with the context of a name, from their start.

        Args:
            hashes: of the prompt's blocks.
            known: what was found for these hashes before, by run; what is found now is added.
        """
        above: list[Run] = []
        run: Run | None = name.run
        while run is not None and run not in known:
            # A block's hash covers all before it.
            if run.end <= len(hashes) and hashes[run.end - 1] == run.blocks[-1]:
                known[run] = run.end
            else:
                above.append(run)
                run = run.parent
        shared = known[run] if run is not None else 0
        for part in reversed(above):
            if shared == part.start:
                shared += _alike(part.blocks, hashes, part.start)
            known[part] = shared
        return shared

    def has(self, block_hash: bytes) -> bool:
        """Returns whether a block is on any level."""
        return self._level.get(block_hash, self._levels) < self._levels

    def named(self, digest: bytes, scope: str | None) -> Sequence[Name]:
        """Returns a digest's names, one for each run of blocks that it has stood for."""
        return tuple(self._names.get((digest, scope), ()))

    def knows(self, name: Name) -> bool:
        """Returns whether a name has not been forgotten, with the last of its blocks, since it was had."""
        return name.run.names.get(name.digest) is name and name.run in self.runs

    def path(self, name: Name) -> list[bytes]:
        """Returns the hashes of all full blocks before the name's end."""
        stretches = [run.blocks for run in _up(name.run)]
        return [block_hash for blocks in reversed(stretches) for block_hash in blocks]

    def shared(self, name: Name, start: int) -> int:
        """Returns from which block on no other living context on the device needs this path."""
        below: Run | None = None
        for run in _up(name.run):
            if run.start < start:
                return start
            for child in run.children:
                on_device = child.missing[0] < len(child.blocks)
                if child is not below and on_device and not child.dead and _has_names(child, alive=True):
                    return run.end
            below = run
        return start

    def boundaries(self, name: Name) -> list[tuple[bytes, int]]:
        """Returns the names that lead to it and itself, as (digest, tokens), ascending."""
        found: list[tuple[bytes, int]] = []
        at: Name | None = name
        while at is not None:
            found.append((at.digest, at.tokens))
            at = at.parent
        return found[::-1]

    # --- what requests do

    def adopted(self, user: CacheUser, now: float) -> None:
        """Notes that a request starts from its first `registered` blocks, all on the device."""
        if user.registered:
            self._used(self._cut(user.hashes, user.registered), now)
        self._reach(user, user.registered)

    def advanced(self, user: CacheUser, registered: int, now: float) -> None:
        """Notes that the blocks of a request up to `registered` are on the device now."""
        boundaries, hashes, size = user.boundaries, user.hashes, self._block_size
        while user.names and not self.knows(user.names[-1]):
            user.names.pop()
        at = user.registered
        for index in range(user.boundary, len(boundaries)):
            end = boundaries[index][1] // size
            if end > registered:
                break
            if end > at:
                self.place(hashes, at, end, user.names[-1] if user.names else None, now)
                at = end
            self._reach(user, end)
        if registered > at:
            self.place(hashes, at, registered, user.names[-1] if user.names else None, now)

    def left(self, user: CacheUser, now: float) -> None:
        """Notes that a request gives its blocks back."""
        for name in user.names:
            name.users -= 1
        user.names = []
        if user.registered:
            self._used(self._cut(user.hashes, user.registered), now)

    def used(self, hashes: Sequence[bytes], end: int, now: float) -> None:
        """Notes a use of the first `end` blocks of a path."""
        self._used(self._cut(hashes, end), now)

    def place(self, hashes: Sequence[bytes], start: int, end: int, owner: Name | None, now: float) -> None:
        """Notes that blocks start to end (exclusive) of a prompt are on the device.

        Args:
            hashes: of the prompt's blocks, from its first on.
            owner: the last name before them, if any.
        """
        runs, level = self._runs, self._level
        at = self._before(hashes, start, now)
        for index in range(start, end):
            block_hash = hashes[index]
            run = runs.get(block_hash)
            if run is None:
                at = self._append(at, index, block_hash, owner, now)
                level[block_hash] = 0
                at.present += 1
            else:
                if level[block_hash]:
                    self.moved(block_hash, 0)
                at = run

    def name(
        self,
        hashes: Sequence[bytes],
        digest: bytes,
        tokens: int,
        scope: str | None,
        parent: Name | None,
    ) -> Name:
        """Returns the name for a boundary whose full blocks, at least one, have been placed."""
        run = self._cut(hashes, tokens // self._block_size)
        name = run.names.get(digest)
        if name is None:
            name = self._add(run, digest, tokens, scope, parent)
        return name

    def name_reply(self, user: CacheUser, digest: bytes, tokens: int) -> None:
        """Names the context of a request that ends, its reply included.

        Until another request uses that name, the reply goes on being part of what it follows: it is kept with
        it, and dies with it.

        Args:
            tokens: from the start of the prompt to the end of the reply.
        """
        end = tokens // self._block_size
        if 0 < end <= user.registered:
            run = self._cut(user.hashes, end)
            if digest not in run.names:
                parent = user.names[-1] if user.names and self.knows(user.names[-1]) else None
                self._add(run, digest, tokens, user.scope, parent, reply=True)

    def moved(self, block_hash: bytes, level: int) -> None:
        """Notes that the first level which holds a block is another one now."""
        old = self._level[block_hash]
        self._level[block_hash] = level
        run = self._runs[block_hash]
        missing, resident, parent = run.missing, run.resident, run.parent
        for each in range(old, level):
            missing[each] += 1
            if resident[each]:
                self._lost(run, each)
        for each in range(level, old):
            missing[each] -= 1
            if not missing[each] and (parent is None or parent.resident[each]):
                self._found(run, each)
        if old != level:
            run.present += (old == self.gone) - (level == self.gone)
            if not run.present and not run.children:
                self._drop(run)

    def clear(self) -> None:
        """Forgets everything: the cache was reset."""
        for index in (self._runs, self._level, self._names, self.estimated, self.dead, self.runs):
            index.clear()
        self.version += 1
        self._residency.clear()

    # --- what directives say

    def retain(self, name: Name, estimate: Estimate | None) -> None:
        """Sets or clears the estimate of a name, and takes it for alive."""
        name.estimate = estimate
        if estimate is None:
            self.estimated.pop(name, None)
        else:
            self.estimated[name] = None
        self._revive_names(name)
        self._revive(name.run)
        self.version += 1

    def release(self, name: Name, keep: Name | None) -> tuple[int, str | None]:
        """Takes a name, and those that it extends up to and without `keep`, for dead.

        Returns:
            The tokens that are dead now, and why not all that were meant.
        """
        reason: str | None = None
        at: Name | None = name
        while at is not None and at is not keep:
            if at.users:
                reason = "a request uses it"
            elif at.living:
                reason = "other context extends it"
            if reason is not None:
                break
            if not at.dead:
                at.dead = True
                if at.parent is not None:
                    at.parent.living -= 1
            at.estimate = None
            self.estimated.pop(at, None)
            for child in list(at.run.children):
                if child.tail_of is at:
                    self._kill(child)
            at = at.parent
        self.version += 1
        run: Run | None = name.run
        stop = at.run if at is not None else None
        while run is not None and run is not stop and self._settle(run):
            run = run.parent
        if stop is not None and run is stop:
            self._settle(stop)
        return name.tokens - (at.tokens if at is not None else 0), reason

    def forget_expired(self, now: float) -> None:
        """Drops the estimates that count no more."""
        for name in [name for name in self.estimated if _expired(name, now)]:
            name.estimate = None
            del self.estimated[name]

    def retained(self, now: float, whose: Callable[[Name], str] | None = None) -> dict[str, int]:
        """Returns the tokens under an estimate, by scope ("" without one), or by what `whose` tells.

        What several names share counts for the one that was estimated first.
        """
        seen: set[Run] = set()
        tokens: dict[str, int] = {}
        for name in self.estimated:
            if _expired(name, now):
                continue
            key = (name.scope or "") if whose is None else whose(name)
            for run in _up(name.run):
                if run in seen:
                    break
                seen.add(run)
                tokens[key] = tokens.get(key, 0) + run.present * self._block_size
        return tokens

    # --- inside

    def _reach(self, user: CacheUser, registered: int) -> None:
        """Takes a request's boundaries that `registered` blocks cover for used."""
        boundaries, scope, size = user.boundaries, user.scope, self._block_size
        names = user.names
        parent = names[-1] if names else None
        index = user.boundary
        while index < len(boundaries):
            digest, tokens = boundaries[index]
            end = tokens // size
            if end > registered:
                break
            if end:
                parent = self.name(user.hashes, digest, tokens, scope, parent)
                parent.users += 1
                names.append(parent)
                if parent.dead:
                    parent.dead = False
                    if parent.parent is not None:
                        parent.parent.living += 1
                if parent.estimate is not None:
                    parent.estimate = None
                    del self.estimated[parent]
            index += 1
        user.boundary = index

    def _used(self, run: Run, now: float) -> None:
        at: Run | None = run
        while at is not None:
            at.last_used = now
            if at.dead:
                at.dead = False
                del self.dead[at]
            at = at.parent

    def _revive(self, run: Run) -> None:
        for at in _up(run):
            if at.dead:
                at.dead = False
                del self.dead[at]

    def _revive_names(self, name: Name) -> None:
        at: Name | None = name
        while at is not None and at.dead:
            at.dead = False
            if at.parent is not None:
                at.parent.living += 1
            at = at.parent

    def _before(self, hashes: Sequence[bytes], start: int, now: float) -> Run | None:
        """Returns the run of the block before `start`; what was forgotten of the path becomes known again."""
        known = start
        while known and hashes[known - 1] not in self._runs:
            known -= 1
        at = self._runs[hashes[known - 1]] if known else None
        for index in range(known, start):
            at = self._append(at, index, hashes[index], None, now)
            self._level[hashes[index]] = self.gone
            for level in range(self._levels):
                at.missing[level] += 1
                at.resident[level] = False
        return at

    def _append(self, at: Run | None, index: int, block_hash: bytes, owner: Name | None, now: float) -> Run:
        """Puts a block after the one before it, which `at` holds."""
        if at is not None and at.end != index:
            at = self._split(at, index - at.start)
        if at is None or at.children or at.names or at.tail_of is not owner:
            resident = [True] * self._levels if at is None else list(at.resident)
            at = Run(at, [], index, [0] * self._levels, resident, now, tail_of=owner)
            self.runs[at] = None
            if at.parent is not None:
                at.parent.children[at] = None
        at.blocks.append(block_hash)
        at.end += 1
        self._runs[block_hash] = at
        return at

    def _cut(self, hashes: Sequence[bytes], end: int) -> Run:
        """Returns the run that ends with block `end` of a path."""
        run = self._runs[hashes[end - 1]]
        return run if run.end == end else self._split(run, end - run.start)

    def _split(self, run: Run, count: int) -> Run:
        """Moves the first `count` blocks of a run into a new one before it, which is returned."""
        blocks = run.blocks[:count]
        levels = [self._level[block_hash] for block_hash in blocks]
        missing = [sum(level > each for level in levels) for each in range(self._levels)]
        above = run.parent.resident if run.parent is not None else [True] * self._levels
        head = Run(
            run.parent,
            blocks,
            run.start + count,
            missing,
            [not absent and before for absent, before in zip(missing, above, strict=True)],
            run.last_used,
            tail_of=run.tail_of,
            present=sum(level != self.gone for level in levels),
            dead=run.dead,
            children={run: None},
        )
        if run.parent is not None:
            del run.parent.children[run]
            run.parent.children[head] = None
        if head.dead:
            self.dead[head] = None
        self.runs[head] = None
        run.parent = head
        run.blocks = run.blocks[count:]
        run.missing = [all_ - own for all_, own in zip(run.missing, missing, strict=True)]
        run.present -= head.present
        for block_hash in blocks:
            self._runs[block_hash] = head
        for watcher in self._split_watchers:
            watcher(run, head)
        if not run.present and not run.children:
            self._drop(run)
        return head

    def _add(
        self,
        run: Run,
        digest: bytes,
        tokens: int,
        scope: str | None,
        parent: Name | None,
        *,
        reply: bool = False,
    ) -> Name:
        if parent is not None:
            parent.extended += 1
            parent.living += not reply
        if len(run.names) >= NAMES_PER_RUN_MAX:
            self._forget_a_name(run)
        if not reply:
            run.tail_of = None
        name = run.names[digest] = Name(digest, scope, tokens, run, parent, dead=reply)
        self._names.setdefault((digest, scope), {})[name] = None
        for level in range(self._levels):
            if run.resident[level]:
                self._residency.came(name.digest, scope, tokens, level)
        return name

    def _forget_a_name(self, run: Run) -> None:
        """Forgets the oldest name that nothing needs, and those before it in this run that only it needed."""
        at = next((name for name in run.names.values() if _unneeded(name)), None)
        while at is not None and at.run is run and _unneeded(at):
            for level in range(self._levels):
                if run.resident[level]:
                    self._residency.went(at.digest, at.scope, at.tokens, level)
            self._remove(at)
            del run.names[at.digest]
            at = at.parent

    def _remove(self, name: Name) -> None:
        self.estimated.pop(name, None)
        name.estimate = None
        if name.parent is not None:
            name.parent.extended -= 1
            name.parent.living -= not name.dead
        key = (name.digest, name.scope)
        others = self._names[key]
        del others[name]
        if not others:
            del self._names[key]

    def _hand_up(self, name: Name) -> None:
        """What is left of a context is needed as soon as the whole."""
        parent, estimate = name.parent, name.estimate
        while parent is not None and parent.run is name.run:
            parent = parent.parent
        if parent is None or estimate is None:
            return
        other = parent.estimate
        if other is None or estimate.made_at + estimate.median < other.made_at + other.median:
            parent.estimate = estimate
            self.estimated[parent] = None

    def _drop(self, run: Run) -> None:
        at: Run | None = run
        while at is not None and not at.present and not at.children:
            for block_hash in at.blocks:
                del self._runs[block_hash]
                del self._level[block_hash]
            for name in at.names.values():
                self._hand_up(name)
                self._remove(name)
            self.dead.pop(at, None)
            del self.runs[at]
            if at.parent is not None:
                del at.parent.children[at]
            at = at.parent

    def _lost(self, run: Run, level: int) -> None:
        dropped = [run]
        while dropped:
            at = dropped.pop()
            at.resident[level] = False
            for name in at.names.values():
                self._residency.went(name.digest, name.scope, name.tokens, level)
            dropped += [child for child in at.children if child.resident[level]]

    def _found(self, run: Run, level: int) -> None:
        found = [run]
        while found:
            at = found.pop()
            at.resident[level] = True
            for name in at.names.values():
                self._residency.came(name.digest, name.scope, name.tokens, level)
            found += [child for child in at.children if not child.missing[level]]

    def _settle(self, run: Run) -> bool:
        """Takes a run for dead if nothing is left that lives on it; returns whether it is dead."""
        if run.dead:
            return True
        if any(not name.dead for name in run.names.values()) or self._in_use(run.blocks[0]):
            return False
        if any(not child.dead and _has_names(child) for child in run.children):
            return False
        run.dead = True
        self.dead[run] = None
        for child in run.children:
            self._kill(child)
        return True

    def _kill(self, run: Run) -> None:
        """Takes a run, and all that extends it, for dead, unless a name in it is alive."""
        dying = [] if _has_names(run, alive=True) else [run]
        while dying:
            at = dying.pop()
            if not at.dead and not self._in_use(at.blocks[0]):
                at.dead = True
                self.dead[at] = None
            dying += at.children


def _alike(blocks: Sequence[bytes], hashes: Sequence[bytes], start: int) -> int:
    """Returns how many blocks, from the first on, are those of `hashes` from `start` on."""
    low, high = 0, min(len(blocks), max(len(hashes) - start, 0))
    while low < high:
        middle = (low + high + 1) // 2
        if hashes[start + middle - 1] == blocks[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def _up(run: Run) -> Iterator[Run]:
    at: Run | None = run
    while at is not None:
        yield at
        at = at.parent


def _unneeded(name: Name) -> bool:
    return not name.users and not name.extended


def _expired(name: Name, now: float) -> bool:
    return name.estimate is None or now >= name.estimate.expires_at


def _has_names(run: Run, *, alive: bool = False) -> bool:
    below = [run]
    while below:
        at = below.pop()
        if any(not (alive and name.dead) for name in at.names.values()):
            return True
        below += at.children
    return False
