"""What the directives that only concern the order of eviction do, and what is answered."""

from typing import Final, TypeAlias

from llmd_agents.hints import Estimate, Release, Result, Retain

from .contexts import Contexts, Name

Answer: TypeAlias = tuple[Result, str | None, int | None]
"""What became of a directive, why, and how many tokens of its context that covers."""

UNKNOWN: Final = "unknown digest"


def retain(contexts: Contexts, directive: Retain, now: float, most: int) -> Answer:
    """Sets the estimate of a context's next use; one of weight 0 clears it.

    Args:
        now: seconds, by the clock that evictions are ranked by.
        most: tokens that the budget for estimates covers.
    """
    names = contexts.named(directive.digest, directive.scope)
    if not names:
        return "rejected", UNKNOWN, None
    estimate = None
    if directive.weight > 0:
        expires_at = now + directive.expires
        estimate = Estimate(now, directive.after, directive.sigma, expires_at, directive.weight)
    for name in names:
        contexts.retain(name, estimate)
    tokens = max(name.tokens for name in names)
    if tokens > most:
        return "clipped", "more than the budget for estimates", most
    return "applied", None, tokens


def release(contexts: Contexts, directive: Release) -> Answer:
    """Takes a context, but for what is to be kept of it, for dead."""
    names = contexts.named(directive.digest, directive.scope)
    if not names:
        return "rejected", UNKNOWN, None
    tokens, reason = 0, None
    # A digest that ends within the first block, or was forgotten, names nothing here that could be kept.
    keep = directive.keep
    if keep is not None and not contexts.named(keep, directive.scope):
        keep = None
    paths = [(name, prefix_named(name, keep)) for name in names]
    if keep is not None and all(stays is None for _, stays in paths):
        return "rejected", "keep is no prefix of the context", None
    for name, stays in paths:
        if keep is None or stays is not None:
            dead, why = contexts.release(name, stays)
            tokens, reason = max(tokens, dead), reason or why
    return ("applied" if reason is None else "clipped"), reason, tokens


def prefix_named(name: Name, digest: bytes | None) -> Name | None:
    """Returns the name of a digest among those that a name extends."""
    at = name.parent
    while at is not None and at.digest != digest:
        at = at.parent
    return at
