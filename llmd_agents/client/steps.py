"""From one outgoing request to its hints, and from its response back to the branch."""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_digest

from llmd_agents.hints import (
    Hints,
    Link,
    Step,
    UnreadableHints,
    chain,
    decode_ack,
    encode_hints,
    segments_of,
)
from llmd_agents.hints.limits import NAME_MAX_CHARS, PARENTS_MAX

from .frame import Frame

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class PendingStep:
    """A step whose request has been sent.

    Attributes:
        declared: whether the application declared the frame; otherwise it was inferred.
        content: hash of the request body, by which a retry is recognised.
        header: the encoded hints.
    """

    frame: Frame
    declared: bool
    server: str
    content: bytes
    step: Step
    links: list[Link]
    header: str
    answered: bool = False

    def is_retried_by(self, content: bytes, server: str, declared: Frame | None) -> bool:
        """Returns whether a request is another attempt at this step: the same call from the same place."""
        if self.answered or self.content != content or self.server != server:
            return False
        if declared is None:
            return not self.declared
        return self.declared and declared.branch is self.frame.branch

    def on_answer(self, ack: str | None) -> None:
        """Takes note of a successful response."""
        if self.answered:
            return
        self.answered = True
        branch = self.frame.branch
        branch.advance(self.step.id, self.step.parents)
        try:
            resync = ack is not None and decode_ack(ack).resync
        except UnreadableHints:
            resync = False
        if resync:
            branch.forget_told(self.server)
        else:
            branch.told(self.server, self.links)


# The SDK retries within the task or thread that made the call, so the last attempt is found in its context.
_last: ContextVar[PendingStep | None] = ContextVar("llmd_agents_last_step", default=None)


def begin_step(
    content: bytes, server: str, declared: Frame | None, infer: Callable[[list[Link]], Frame]
) -> PendingStep:
    """Makes the hints of one request. The same body sent again after a failure is the same step.

    Args:
        content: the JSON body.
        server: where it goes; digests are declared anew to each server.
        declared: the frame that the call is made in, if any.
        infer: tells the frame that a chain of context continues, where none is declared.

    Raises:
        ValueError: if the body is no JSON object, or has no chain, or the hints do not fit the header.
    """
    fingerprint = xxh3_128_digest(content)
    last = _last.get()
    if last is not None and last.is_retried_by(fingerprint, server, declared):
        return last
    body: Any = json.loads(content)
    if not isinstance(body, dict):
        raise ValueError("the request body is not a JSON object")
    links = chain(body)
    frame = declared or infer(links)
    branch = frame.branch
    step = Step(
        id=branch.run.step_ids.next(),
        branch=branch.id,
        kind=frame.kind,
        model=_model(body),
        agent=frame.agent,
        parents=branch.frontier[-PARENTS_MAX:],
        fork=branch.fork,
        loop=branch.loops[-1] if branch.loops else None,
    )
    known = branch.known_links(server, links)
    if known == 1 and links[0].size == 0:
        known = 0  # a head without tools is no segment, so the server has not been told of it
    hints = Hints(
        program=branch.run.declared,
        step=step,
        extends=links[known - 1].digest if known else None,
        segments=segments_of(links[known:]),
        forecast=frame.forecast,
    )
    pending = PendingStep(frame, declared is not None, server, fingerprint, step, links, encode_hints(hints))
    _last.set(pending)
    return pending


def _model(body: dict[str, Any]) -> str | None:
    model = body.get("model")
    return (
        model if isinstance(model, str) and 0 < len(model) <= NAME_MAX_CHARS and model.isprintable() else None
    )
