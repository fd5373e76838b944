"""What each directive does, and what is answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmd_agents.cache_index import UNKNOWN, Answer, Name, prefix_named
from llmd_agents.hints import Demote, Directive, DirectiveOutcome, Prefetch, Release, Retain, Warm

from .books import Books
from .prompts import Prompts

AHEAD_SHARE: Final = 2
"""One part in so many of the device's blocks may be brought ahead of use at once."""

AHEAD_S: Final = 120.0
"""What nobody has told of by then is not on its way any more: whoever was to tell is gone."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A context to be brought to the device: by a request for one token, which the engine's own connectors
    load and the model computes, whichever is needed.

    Attributes:
        action_id: of the directive.
        tokens: its token ids.
        salt: the cache salt that it belongs to.
    """

    action_id: str
    tokens: list[int]
    salt: str | None


class Directives:
    """Carries directives out on an engine's books."""

    def __init__(self, books: Books, prompts: Prompts) -> None:
        self._books = books
        self._prompts = prompts
        self._ahead: list[tuple[int, float]] = []
        """Blocks of each context on its way, and when that began."""

    @property
    def supported(self) -> tuple[str, ...]:
        below = bool(self._books.lower)
        return ("retain", "release", *(("prefetch", "demote") if below else ()), "warm")

    def carry_out(self, action_id: str, directive: Directive, now: float) -> DirectiveOutcome | Ahead:
        """Carries a directive out.

        Returns:
            What became of it; or what is to be brought ahead, of which `arrived` must be told.
        """
        self._ahead = [(blocks, began) for blocks, began in self._ahead if now - began < AHEAD_S]
        answer = self._act(action_id, directive, now)
        if isinstance(answer, Ahead):
            self._ahead.append((self._blocks(len(answer.tokens)), now))
            return answer
        result, reason, tokens = answer
        return DirectiveOutcome(action_id=action_id, outcome=result, reason=reason, tokens=tokens)

    def arrived(self, tokens: int) -> None:
        """Notes that a context that was to be brought ahead is there, or will not come."""
        blocks = self._blocks(tokens)
        at = next((index for index, (each, _) in enumerate(self._ahead) if each == blocks), None)
        if at is not None:
            del self._ahead[at]

    def _act(self, action_id: str, directive: Directive, now: float) -> Answer | Ahead:
        match directive:
            case Retain():
                return self._books.retain(directive, now)
            case Release():
                return self._books.release(directive)
            case Demote():
                return self._demote(directive)
            case Prefetch(peer=None):
                return self._prefetch(action_id, directive)
            case Prefetch():
                reason = "this engine copies from peers through its storage alone: send it a warm-up"
                return "unsupported", reason, None
            case Warm():
                return self._bring(action_id, directive.digest, directive.scope)

    def _prefetch(self, action_id: str, directive: Prefetch) -> Answer | Ahead:
        books = self._books
        level = self._level(directive.tier)
        if level is None:
            return "unsupported", f"this engine has no {directive.tier} tier", None
        names = books.contexts.named(directive.digest, directive.scope)
        if not names:
            return "rejected", UNKNOWN, None
        if (there := self._there(names, 0)) is not None:
            return "applied", None, there.tokens
        if self._there(names, level) is None:
            return "rejected", f"not in the {directive.tier} tier", None
        return self._bring(action_id, directive.digest, directive.scope)

    def _bring(self, action_id: str, digest: bytes, scope: str | None) -> Answer | Ahead:
        books = self._books
        names = books.contexts.named(digest, scope)
        if (there := self._there(names, 0)) is not None:
            return "applied", None, there.tokens
        prompt = self._prompts.find(digest, scope)
        if prompt is None:
            return "rejected", "this engine remembers no prompt with it", None
        blocks = self._blocks(len(prompt.tokens))
        on_their_way = sum(each for each, _ in self._ahead)
        if blocks > min(books.pool.size // AHEAD_SHARE - on_their_way, books.pool.free):
            return "rejected", "reading ahead may take no more room now", None
        return Ahead(action_id, prompt.tokens, prompt.salt)

    def _demote(self, directive: Demote) -> Answer:
        books = self._books
        level = self._level(directive.tier)
        if level is None:
            return "unsupported", f"this engine has no {directive.tier} tier", None
        names = books.contexts.named(directive.digest, directive.scope)
        if not names:
            return "rejected", UNKNOWN, None
        tokens = left = 0
        reason = None
        for name in names:
            keep = prefix_named(name, directive.keep)
            if directive.keep is not None and keep is None:
                return "rejected", "keep is no prefix of the context", None
            kept = keep.tokens // books.block_size if keep is not None else 0
            start = books.contexts.shared(name, kept)
            if start > kept:
                reason = "other context extends it"
            # vLLM's offloading copies to lower tiers whatever it computes, so that nothing needs to be moved.
            below = [
                block_hash
                for block_hash in books.contexts.path(name)[start:]
                if books.lower[level - 1].holds(block_hash)
            ]
            left += books.give_up(below)
            tokens = max(tokens, len(below) * books.block_size)
        if left:
            reason = "some of it is in use"
        if not tokens:
            return "rejected", f"the {directive.tier} tier holds none of it", None
        return ("applied" if reason is None else "clipped"), reason, tokens

    def _there(self, names: Sequence[Name], level: int) -> Name | None:
        return next((name for name in names if name.run.resident[level]), None)

    def _level(self, tier: str | None) -> int | None:
        """Returns the level of a lower tier of this engine, by its name."""
        tiers = self._books.residency.tiers
        return next((level for level in range(1, len(tiers)) if tiers[level] == tier), None)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._books.block_size)
