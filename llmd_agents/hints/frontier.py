"""The frontier of a branch: ids of the steps and forks that its next step depends on.

Client and runtime both keep one, and must agree on it for a step's `parents` to mean the same to both.
"""

from collections.abc import Iterable


def advance(frontier: Iterable[str], done: str, parents: Iterable[str]) -> tuple[str, ...]:
    """Returns the frontier after a step was answered, or a fork joined: it takes its parents' place."""
    replaced = {done, *parents}
    return (*(one for one in frontier if one not in replaced), done)
