"""Watches prompts go by, branch by branch, and tells where one stops being a prefix of the next.

As long as prompts extend each other this costs little: the chain digests say so, and one comparison of bytes
says that nothing was written in another order. Bodies are parsed only where that fails.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_digest

from .compare import BYTES_PER_TOKEN, Relation, compare
from .divergence import Compaction, Divergence
from .prompt import Region, UnreadablePrompt, parse_body, read_prompt, tool_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmd_agents.hints import Link

    from .prompt import Prompt

REMEMBERED_BYTES = 64 << 20
BRANCHES_MAX = 4096
CONVERSATIONS_MAX = 256
"""Most conversations that are told apart within one branch."""

_CANDIDATES = 32
"""How many of a branch's latest conversations a prompt that extends none is compared with, by sizes alone."""

_PARSED = 4
"""How many of those, the likeliest ones, are then read."""

ALLOWANCE_BYTES = 1 << 20
"""What may be read on a branch before reading is bounded by a share of what it sends."""

# What else takes time, as the bytes that are read in the same time, roughly.
_CALL_BYTES = 8 << 10
_CANDIDATE_BYTES = 512
_COMPARISON_BYTES = 32 << 10

_LINK_BYTES = 160
"""Memory that a remembered link takes besides the body, roughly."""

_NEARLY = 16
_PREVIOUS = "previous"


@dataclass(slots=True)
class _Tip:
    """The newest prompt of a conversation.

    Attributes:
        digests: of its links; each names everything before it.
        shapes: role and size of each link.
        ordered: whether the digests tell one order of keys from another.
        tools: names the tools as they were written; None until it was needed.
    """

    body: bytes
    digests: tuple[bytes, ...]
    shapes: tuple[tuple[str | None, int], ...]
    ordered: bool
    tools: bytes | None = None

    @property
    def memory(self) -> int:
        return len(self.body) + _LINK_BYTES * len(self.digests)

    def prompt(self) -> Prompt:
        return read_prompt(parse_body(self.body))


class PrefixWatch:
    """Compares each prompt with what was sent before on its branch.

    A branch may hold several conversations, as where nothing is declared: each prompt is compared with the
    one that it continues. Memory is bounded; what was not used for longest is forgotten. Safe to use from
    threads.

    Args:
        remembered_bytes: most memory for earlier prompts, in bytes.
        read_share: how much may be read to compare prompts, as a share of the bytes that a branch sends, once
            its allowance is used up. Divergences beyond that are not told. No bound by default.
    """

    def __init__(self, remembered_bytes: int = REMEMBERED_BYTES, *, read_share: float | None = None) -> None:
        self._most = remembered_bytes
        self._share = read_share
        self._allowances: dict[str, float] = {}
        self._held = 0
        self._branches: OrderedDict[str, OrderedDict[bytes, _Tip]] = OrderedDict()
        self._text_bytes = 0.0
        self._tokens = 0.0
        self._lock = threading.RLock()

    @property
    def held_bytes(self) -> int:
        """Memory that earlier prompts take now."""
        return self._held

    @property
    def bytes_per_token(self) -> float:
        return self._text_bytes / self._tokens if self._tokens else BYTES_PER_TOKEN

    def learn(self, text_bytes: int, tokens: int) -> None:
        """Learns how long a token is from a server's count.

        Args:
            text_bytes: size of a prompt's text: the sum of its links' sizes.
            tokens: what the server says that it has.
        """
        if tokens > 0 and 0.5 <= text_bytes / tokens <= 64:  # else it counted something else, such as images
            with self._lock:
                # Older counts fade, so that another model's or language's tokens are learned soon.
                self._text_bytes = 0.9 * self._text_bytes + text_bytes
                self._tokens = 0.9 * self._tokens + tokens

    def observe(
        self,
        branch: str,
        body: bytes,
        links: Sequence[Link] = (),
        parsed: Mapping[str, Any] | None = None,
    ) -> Divergence | Compaction | None:
        """Takes note of a request, in the order in which they are sent.

        Args:
            branch: where prompts are expected to extend each other: a declared branch, or one name for
                everything that a client sends undeclared.
            body: the request's JSON.
            links: its chain, where it is known already; computed from the body else.
            parsed: the parsed body, where it is known already.

        Returns:
            What keeps the prompt from extending its conversation's earlier one: a Divergence, or a
            Compaction, which is meant. None if nothing does: it extends it, repeats it, goes back to an
            earlier point, continues a stored response, begins another conversation, or cannot be read.
        """
        with self._lock:
            try:
                return self._observe(branch, body, links, parsed)
            except (UnreadablePrompt, RecursionError):
                return None

    def forget(self, branch: str) -> None:
        """Frees what is remembered of a branch that has ended."""
        with self._lock:
            self._allowances.pop(branch, None)
            for tip in self._branches.pop(branch, OrderedDict()).values():
                self._held -= tip.memory

    def _observe(
        self, branch: str, body: bytes, links: Sequence[Link], parsed: Mapping[str, Any] | None
    ) -> Divergence | Compaction | None:
        prompt: Prompt | None = None
        if links:
            if any(link.role == _PREVIOUS for link in links):
                return None
            digests = tuple(link.digest for link in links)
            tip = _Tip(body, digests, tuple((link.role, link.size) for link in links), ordered=False)
        else:
            prompt = read_prompt(parsed if parsed is not None else parse_body(body))
            if prompt.lineage:
                return None
            tip = _own_links(prompt, body)
        tips = self._branches.get(branch)
        if tips is None:
            self._keep(branch, tip, None)
            return None
        self._earn(branch, len(body))
        extended = next((tips[digest] for digest in reversed(tip.digests) if digest in tips), None)
        if extended is not None:
            found = None
            if not self._is_as_written(branch, extended, tip, parsed):
                found = self._compare(branch, extended, prompt or _prompt(body, parsed))
            self._keep(branch, tip, extended)
            return found if isinstance(found, Divergence) else None
        if any(tip.digests[-1] in other.digests for other in tips.values()):
            self._keep(branch, tip, None)
            return None
        likely: list[_Tip] = []
        if self._may_read(branch):
            self._spend(branch, min(len(tips), _CANDIDATES) * _CANDIDATE_BYTES)
            likely = _likely(tips, tip)
        for other in likely:
            self._spend(branch, _COMPARISON_BYTES + len(other.body) + (len(body) if prompt is None else 0))
            prompt = prompt or _prompt(body, parsed)
            found = self._compare(branch, other, prompt)
            if found is Relation.EXTENDS or isinstance(found, Divergence | Compaction):
                self._keep(branch, tip, other)
                return None if isinstance(found, Relation) else found
            if not self._may_read(branch):
                break
        self._keep(branch, tip, None)
        return None

    def _earn(self, branch: str, size: int) -> None:
        if self._share is not None and (left := self._allowances.get(branch)) is not None:
            self._allowances[branch] = min(left + _CALL_BYTES + self._share * size, ALLOWANCE_BYTES)

    def _may_read(self, branch: str) -> bool:
        return self._allowances.get(branch, ALLOWANCE_BYTES) > 0

    def _spend(self, branch: str, size: int) -> None:
        if self._share is not None:
            self._allowances[branch] = self._allowances.get(branch, ALLOWANCE_BYTES) - size

    def _compare(self, branch: str, earlier: _Tip, later: Prompt) -> Divergence | Compaction | Relation:
        return compare(earlier.prompt(), later, branch=branch, bytes_per_token=self.bytes_per_token)

    def _is_as_written(
        self, branch: str, earlier: _Tip, later: _Tip, parsed: Mapping[str, Any] | None
    ) -> bool:
        """Whether the tools of a prompt that extends another were also written alike, key by key."""
        if later.ordered or _is_insertion(earlier.body, later.body):
            later.tools = earlier.tools
            return True
        if not self._may_read(branch):
            return True
        self._spend(branch, sum(len(tip.body) for tip in (earlier, later) if tip.tools is None))
        if earlier.tools is None:
            earlier.tools = _tools_mark(parse_body(earlier.body))
        later.tools = _tools_mark(parsed if parsed is not None else parse_body(later.body))
        return earlier.tools == later.tools

    def _keep(self, branch: str, tip: _Tip, instead_of: _Tip | None) -> None:
        tips = self._branches.setdefault(branch, OrderedDict())
        self._branches.move_to_end(branch)
        for stale in {tip.digests[-1], *(() if instead_of is None else (instead_of.digests[-1],))}:
            if (gone := tips.pop(stale, None)) is not None:
                self._held -= gone.memory
        if tip.memory <= self._most:
            tips[tip.digests[-1]] = tip
            self._held += tip.memory
        if len(tips) > CONVERSATIONS_MAX:
            self._held -= tips.popitem(last=False)[1].memory
        while self._held > self._most or len(self._branches) > BRANCHES_MAX:
            oldest, theirs = next(iter(self._branches.items()))
            if theirs:
                self._held -= theirs.popitem(last=False)[1].memory
            if not theirs:
                del self._branches[oldest]
                self._allowances.pop(oldest, None)


def _own_links(prompt: Prompt, body: bytes) -> _Tip:
    digest = b""
    digests: list[bytes] = []
    shapes: list[tuple[str | None, int]] = []
    head = b"".join(unit.fingerprint for unit in prompt.units if unit.region is not Region.MESSAGES)
    digests.append(digest := xxh3_128_digest(head))
    shapes.append((None, sum(unit.size for unit in prompt.units if unit.region is not Region.MESSAGES)))
    for unit in prompt.units:
        if unit.region is Region.MESSAGES:
            digests.append(digest := xxh3_128_digest(digest + unit.fingerprint))
            shapes.append((unit.role, unit.size))
    return _Tip(body, tuple(digests), tuple(shapes), ordered=True)


def _prompt(body: bytes, parsed: Mapping[str, Any] | None) -> Prompt:
    return read_prompt(parsed if parsed is not None else parse_body(body))


def _tools_mark(body: Mapping[str, Any]) -> bytes:
    texts = tool_texts(body)
    return xxh3_128_digest(json.dumps(texts).encode()) if texts else b""


def _is_insertion(old: bytes, new: bytes) -> bool:
    """Returns whether `new` is `old` with something put in at one place, which reorders nothing."""
    if len(new) < len(old):
        return False
    view = memoryview(old)
    low, high = 0, len(old)
    while low < high:
        middle = (low + high + 1) // 2
        if new.startswith(view[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return new.endswith(view[low:])


def _likely(tips: OrderedDict[bytes, _Tip], tip: _Tip) -> list[_Tip]:
    """Returns the conversations that a prompt may continue with something changed, likeliest first."""
    scored: list[tuple[int, int, _Tip]] = []
    for other in islice(reversed(tips.values()), _CANDIDATES):
        shared = _shared_links(other.digests, tip.digests)
        old, new = other.shapes[shared:], tip.shapes[shared:]
        again = sum((Counter(old) & Counter(new)).values())
        (old_role, old_size), (new_role, new_size) = old[0], new[0]
        changed = old_role == new_role and (
            len(new) > len(old) or abs(old_size - new_size) <= _NEARLY or old_role == "prompt"
        )
        if again or changed:
            scored.append((again, shared, other))
    scored.sort(key=lambda one: one[:2], reverse=True)
    return [other for _, _, other in scored[:_PARSED]]


def _shared_links(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:  # a digest names all before it, so where two chains part can be bisected
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
