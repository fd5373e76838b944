"""Where an adapter begins: the outermost scope of a framework's run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .frame import current_frame, open_frames
from .guard import guard
from .kept_programs import kept_programs
from .label import label_of
from .program import program
from .scope import Scope

if TYPE_CHECKING:
    from .branch import Branch
    from .frame import Frame
    from .run import Run


def begin_scope(
    name: str, *, kind: str | None = None, agent: str | None = None, thread: str | None = None
) -> Scope:
    """Begins the scope of a framework's run that no other scope is known to surround.

    Inside a program, or a scope of another adapter, it is part of that; otherwise it is a program of its own,
    which ends with the scope.

    Args:
        name: of the program, if it is one: the workflow's, the same for every run of it.
        kind: of its steps.
        agent: that makes its steps.
        thread: what later runs have in common that go on from this one, such as a conversation's id. They are
            one program, which is over when it has not been used for ten minutes. The id itself stays here.
    """
    if (around := _around()) is not None:
        return around.open(kind=kind, agent=agent)
    if thread is not None:
        return _scope_on(kept_programs.run(name, thread).root).open(kind=kind, agent=agent)
    run = program(label_of(name) or "unnamed")
    run.start()
    scope = Scope(run.root, kind=kind, agent=agent)
    scope.ends_program = True
    return scope


def current_scope() -> Scope | None:
    """Returns the innermost scope that the calling code is in, and that is not over."""
    for inside in open_frames():
        if inside.scope is not None and not inside.scope.ended:
            return inside.scope
    return None


def current_run() -> Run | None:
    """Returns the innermost program that the calling code is in; None outside of any."""
    inside = current_frame()
    return None if inside is None else inside.branch.run


def _around() -> Scope | None:
    """Returns the scope that what begins now is part of; None outside of any program."""
    branch: Branch | None = None
    inside: Frame | None = None
    for inside in open_frames():
        scope = inside.scope
        if scope is not None and scope.ended:
            continue  # what it has left running belongs to what was around it, or else to its program
        branch = branch or inside.branch
        # A label of the developer's stands between a scope and what is opened in it.
        if scope is not None and inside.branch is branch:
            return scope
    if inside is None:
        return None
    return _scope_on(branch or inside.branch)


def _scope_on(branch: Branch) -> Scope:
    """Returns what surrounds all the scopes that begin on a branch which the developer has declared."""
    with guard:
        if branch.scope is None:
            branch.scope = Scope(branch)
        return branch.scope
