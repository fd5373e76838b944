"""What the embedded engine says: words that mean nothing, the same for the same prompt every time.

Token i is a made-up three-letter word and a space, chosen by xxh3 of the prompt and i, so that neither hints
nor timing nor the engine change a reply.
"""

from dataclasses import dataclass
from itertools import product
from typing import Final

from xxhash import xxh3_64_intdigest

WORDS: Final = tuple(
    f"{first}{vowel}{last} ".encode()
    for first, vowel, last in product("bcdfghjklmnprstvwz", "aeiou", "bdgklmnprstx")
)
SHORTEST: Final = 32
LONGEST: Final = 160


@dataclass(frozen=True, slots=True)
class ReplyText:
    """The reply to one prompt, of any length."""

    seed: int

    @classmethod
    def to(cls, prompt: bytes) -> "ReplyText":
        return cls(xxh3_64_intdigest(prompt))

    @property
    def natural_length(self) -> int:
        """Tokens after which the reply ends if nothing else ends it."""
        return SHORTEST + self.seed % (LONGEST - SHORTEST + 1)

    def tokens(self, count: int) -> bytes:
        """Returns the first `count` tokens, four bytes each."""
        seed, words, known = self.seed, WORDS, len(WORDS)
        return b"".join([words[xxh3_64_intdigest(i.to_bytes(8, "big"), seed) % known] for i in range(count)])
