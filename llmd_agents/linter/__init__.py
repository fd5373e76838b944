"""Finds where a prompt stops being a prefix of the next one, and so where a provider's cache ends.

Works on requests alone, with any provider: beside instrumented clients, in tests, and on recorded traffic.
"""

from .assertions import assert_prefix_stable
from .compare import Relation, compare
from .divergence import Cause, Compaction, Divergence, Excerpt
from .findings import Finding, Findings, cost_of, sentence
from .live import PrefixWarning, Watching, feed, live_message, watching
from .prices import BadPrice, Price, Prices, parse_prices, prices_from_environment
from .prompt import Prompt, UnreadablePrompt, read_prompt
from .watch import PrefixWatch

__all__ = [
    "BadPrice",
    "Cause",
    "Compaction",
    "Divergence",
    "Excerpt",
    "Finding",
    "Findings",
    "PrefixWarning",
    "PrefixWatch",
    "Price",
    "Prices",
    "Prompt",
    "Relation",
    "UnreadablePrompt",
    "Watching",
    "assert_prefix_stable",
    "compare",
    "cost_of",
    "feed",
    "live_message",
    "parse_prices",
    "prices_from_environment",
    "read_prompt",
    "sentence",
    "watching",
]
