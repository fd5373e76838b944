"""What a KV cache holds, by chain digest, and which of it is given up first.

Sans-IO, and the same for every engine: the embedded one and vLLM's connector keep their books with it. The
engine tells of the blocks that its requests use and that come and go; this package knows what they mean.
"""

from .contexts import NAMES_PER_RUN_MAX, CacheUser, Contexts, Name, Run
from .directives import UNKNOWN, Answer, prefix_named, release, retain
from .ranking import PIECES_OF_BUDGET, ranking
from .residency import Residency

__all__ = [
    "NAMES_PER_RUN_MAX",
    "PIECES_OF_BUDGET",
    "UNKNOWN",
    "Answer",
    "CacheUser",
    "Contexts",
    "Name",
    "Residency",
    "Run",
    "prefix_named",
    "ranking",
    "release",
    "retain",
]
