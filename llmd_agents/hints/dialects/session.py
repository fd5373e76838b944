"""The stable id under which other stacks keep together what belongs together."""

from ..models import Hints


def session_id(hints: Hints, branch: str | None = None) -> str:
    """Returns `program/branch`: what other stacks call a session or a trajectory is one chain of context.

    One id for the whole program would tie all branches of a wide fork to one engine. With one each, the first
    step of a branch is placed freely, by cached prefix and load, and its later steps follow it. Ids hold no
    slash, so that no two pairs are alike; at most 129 ASCII characters.
    """
    return f"{hints.program.id}/{branch or hints.step.branch}"
