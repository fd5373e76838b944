"""The prompts that the engine was sent, as far as it remembers them: what can be brought unasked."""

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from .use import Use

TOKENS_MAX: Final = 8 << 20
"""Of all prompts together; four bytes each."""

TOKENS_PER_LINK: Final = 32
"""What remembering where a link ends is counted as."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt up to the end of a digest. `salt` is the cache salt of the request that brought it."""

    tokens: list[int]
    salt: str | None


@dataclass(slots=True, eq=False)
class _Remembered:
    tokens: "array[int]"
    salt: str | None
    scope: str | None
    ends: dict[bytes, int]
    size: int


class Prompts:
    """Remembers the prompts sent last; one that a later prompt extends is remembered as part of that one."""

    def __init__(self, most: int = TOKENS_MAX) -> None:
        self._most = most
        self._size = 0
        self._prompts: OrderedDict[int, _Remembered] = OrderedDict()
        self._by_digest: dict[tuple[bytes, str | None], _Remembered] = {}

    def note(self, use: Use) -> None:
        """Remembers the prompt of a request whose boundaries are known."""
        size = len(use.prompt) + TOKENS_PER_LINK * len(use.boundaries)
        if not use.boundaries or not use.repeatable or size > self._most:
            return
        new = _Remembered(array("i", use.prompt), use.salt, use.scope, dict(use.boundaries), size)
        for digest, _ in use.boundaries:
            earlier = self._by_digest.get((digest, use.scope))
            if earlier is not None and next(reversed(earlier.ends)) == digest:
                self._forget(earlier)
            self._by_digest[digest, use.scope] = new
        self._prompts[id(new)] = new
        self._size += size
        while self._size > self._most:
            self._forget(next(iter(self._prompts.values())))

    def find(self, digest: bytes, scope: str | None) -> Prompt | None:
        found = self._by_digest.get((digest, scope))
        if found is None or not (end := found.ends[digest]):
            return None
        return Prompt(found.tokens[:end].tolist(), found.salt)

    def _forget(self, prompt: _Remembered) -> None:
        if self._prompts.pop(id(prompt), None) is None:
            return
        self._size -= prompt.size
        for digest in prompt.ends:
            if self._by_digest.get((digest, prompt.scope)) is prompt:
                del self._by_digest[digest, prompt.scope]
