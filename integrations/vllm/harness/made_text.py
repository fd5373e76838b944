"""Made-up text of about so many tokens of the tiny model, the same for the same name."""

import random
from typing import Final

SYLLABLES: Final = [first + second for first in "bdfghklmnprstvw" for second in "aeiou"]


def made_text(tokens: int, *name: object) -> str:
    """Returns words of two syllables; the tiny model's tokenizer makes about one token of a syllable."""
    draws = random.Random("/".join(map(str, name)))
    return " ".join("".join(draws.choices(SYLLABLES, k=2)) for _ in range(max(tokens // 2, 1)))
