"""From one outgoing request to its hints, and from its answer back to the branch."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from xxhash import xxh3_128_digest

from llmd_agents.hints import Superseded, UnreadableHints, decode_ack, encode_hints
from llmd_agents.hints.drafts import HintsDraft, StepDraft
from llmd_agents.hints.limits import NAME_MAX_CHARS
from llmd_agents.hints.segments import drafts_of

from .clock import event_time
from .history import StepRecord, stretches
from .live_lint import learn
from .marks import Mark
from .observer import tell
from .prompt import Prompt, read_prompt
from .tool_name import call_key

if TYPE_CHECKING:
    from llmd_agents.hints import Ack, Hints, Outcome

    from .answer import Answer
    from .branch import Branch
    from .frame import Frame
    from .implicit import ImplicitProgram
    from .place import Place


class PendingStep:
    """A step whose request has been sent, until its answer is complete.

    Args:
        implicit: what inferred the frame; None if the application declared it.
        content: hash of the body, by which a retry is recognised.
    """

    def __init__(
        self,
        frame: Frame,
        implicit: ImplicitProgram | None,
        place: Place,
        content: bytes,
        prompt: Prompt,
        draft: HintsDraft,
    ) -> None:
        self.frame = frame
        self.branch = frame.branch
        self._implicit = implicit
        self.place = place
        self.prompt = prompt
        self.draft = draft
        self.answered = False
        self._content = content
        self._header: str | None = None
        self._settled = False
        self._history = self.branch.run.history
        self.record = _record(self, self._history.now())

    @property
    def hints(self) -> Hints:
        """All that is declared, as the contract's own model."""
        return self.draft.checked()

    def header(self) -> str:
        """Returns the encoded hints.

        Raises:
            ValueError: if they do not fit.
        """
        if self._header is None:
            self._header = encode_hints(self.draft)
        return self._header

    def is_retried_by(self, content: bytes, place: Place, declared: Frame | None) -> bool:
        """Returns whether a request is another attempt at this step: the same call from the same place."""
        if self.answered or self._content != content or self.place != place:
            return False
        if declared is None:
            return self._implicit is not None
        return self._implicit is None and declared.branch is self.branch

    def start(self) -> None:
        """Takes note of the step where the branch and the program keep theirs."""
        branch, history, record = self.branch, self._history, self.record
        branch.trail.open(self)
        history.keep(history.steps, record)
        tell(lambda observer: observer.step_started(history, record))

    def on_answer(self, status: int, ack: str | None) -> None:
        """Takes note of the head of a response."""
        record = self.record
        record.status = status
        if status >= 300:  # another request may follow, to where a redirection says
            self.on_failure("error")
            return
        record.outcome = record.ended = None
        if self.answered:
            return
        self.answered = True
        branch = self.branch
        branch.advance(self.draft.step.id, self.draft.step.parents)
        if self._implicit is not None:
            self._implicit.answered(branch, self.prompt.links[-1].digest)
        try:
            record.ack = None if ack is None else _ack(ack)
        except UnreadableHints:
            record.ack = None
        if record.ack is not None and record.ack.resync:
            branch.trail.forget_told(self.place.server)
        elif self._header is not None:
            branch.trail.told(self.place.server, self.prompt.links)

    def on_first_byte(self) -> None:
        self.record.first_byte = self._history.now()

    def on_failure(self, outcome: Outcome) -> None:
        """Takes note of an attempt that came to nothing. Another may follow, until the branch ends."""
        if not self._settled:
            self.record.outcome, self.record.ended = outcome, self._history.now()

    def on_end(self, answer: Answer, outcome: Outcome) -> None:
        """Takes note of the end of the answer."""
        if self._settled:
            return
        record, branch = self.record, self.branch
        record.outcome, record.ended = outcome, self._history.now()
        record.input_tokens = answer.input_tokens
        record.cached_tokens = answer.cached_tokens
        record.output_tokens = answer.output_tokens
        record.asked = tuple(answer.asked)
        if answer.input_tokens is not None:
            digest = self.prompt.links[-1].digest
            branch.run.context.note_answer(digest, answer.input_tokens, answer.output_tokens)
            learn(self)
        if answer.response_id is not None and self._implicit is not None:
            ends = (self.prompt.links[-1].digest, self.prompt.lineage(answer.response_id))
            self._implicit.answered(branch, *ends)
        self.settle()
        if record.asked:
            branch.asked.asked(record.step, record.asked)

    def settle(self, outcome: Outcome = "abandoned") -> None:
        """Ends the step, if it has not ended: as it failed, or else with `outcome`."""
        if self._settled:
            return
        self._settled = True
        record, history = self.record, self._history
        if record.outcome is None:
            record.outcome, record.ended = outcome, history.now()
        self.branch.trail.close(self)
        tell(lambda observer: observer.step_ended(history, record))


@lru_cache(maxsize=64)
def _ack(value: str) -> Ack:
    # Most acks of a server say the same.
    return decode_ack(value)


# The SDK retries within the task or thread that made the call, so the last attempt is found in its context.
# Weak, for a context may live as long as its thread; what may be attempted again is kept by its branch.
_last: ContextVar[weakref.ref[PendingStep] | None] = ContextVar("llmd_agents_last_step", default=None)


def begin_step(
    content: bytes, place: Place, declared: Frame | None, implicit: ImplicitProgram
) -> PendingStep:
    """Makes the hints of one request. The same body sent again after a failure is the same step.

    Args:
        content: the JSON body.
        place: where it goes; digests are declared anew to each server.
        declared: the frame that the call is made in, if any.
        implicit: tells the frame that a chain of context continues, where none is declared.

    Raises:
        ValueError: if the body is no JSON object, or has no chain.
    """
    fingerprint = xxh3_128_digest(content)
    latest = _last.get()
    last = None if latest is None else latest()
    if last is not None and last.is_retried_by(fingerprint, place, declared):
        last.record.attempts += 1
        return last
    known = implicit.prompts() if declared is None else declared.branch.run.context.prompts()
    prompt = read_prompt(content, known)
    frame = declared or implicit.frame(prompt.links)
    branch = frame.branch
    _on_results(branch, prompt)
    branch.run.context.note_prompt(prompt)
    draft = _draft(frame, place.server, prompt)
    pending = PendingStep(frame, implicit if declared is None else None, place, fingerprint, prompt, draft)
    _on_turn(branch, pending)
    pending.start()
    _last.set(weakref.ref(pending))
    return pending


def _draft(frame: Frame, server: str, prompt: Prompt) -> HintsDraft:
    branch, links = frame.branch, prompt.links
    run = branch.run
    known = branch.trail.known_links(server, links)
    if known == 1 and links[0].size == 0:
        known = 0  # a head without tools is no segment, so the server has not been told of it
    extends = links[known - 1].digest if known else None
    step = StepDraft(
        id=run.step_ids.next(),
        branch=branch.id,
        kind=frame.kind,
        model=_name(prompt.model),
        agent=frame.agent,
        parents=frame.parents,
        join=branch.next_join,
        fork=branch.fork,
        loop=branch.loops[-1] if branch.loops else None,
    )
    return HintsDraft(
        program=run.declared,
        step=step,
        extends=extends,
        segments=run.context.declared(drafts_of(links[known:]), extends),
        forecast=frame.forecast,
    )


def _on_results(branch: Branch, prompt: Prompt) -> None:
    """Takes note of the results of tools that a request brings."""
    results: list[str] = []
    for link, item in prompt.new_items():
        call = isinstance(item, dict) and (item.get("tool_call_id") or item.get("call_id"))
        if link.role != "tool" or not isinstance(call, str):
            continue
        results.append(call := call_key(call))
        lifetime = branch.asked.lifetime_of(call)
        if lifetime is not None:
            branch.run.context.note_mark(link.digest, Mark(lifetime=lifetime))
    if results:
        branch.asked.resulted(results)


def _on_turn(branch: Branch, pending: PendingStep) -> None:
    """Takes note of how the prompt goes on from what the branch has sent before."""
    step, links = pending.draft.step, pending.prompt.links
    digest = branch.trail.conversations.follow(links, step.id, step.parents)
    if digest is not None:
        pending.record.superseded = True
        run = branch.run
        run.announce(partial(Superseded, program=run.id, at=event_time(), branch=branch.id, digest=digest))


def _record(pending: PendingStep, started: float) -> StepRecord:
    step, draft = pending.draft.step, pending.draft
    prompt_bytes = new_bytes = 0
    for link in pending.prompt.links:
        prompt_bytes += link.size
    for segment in draft.segments:
        new_bytes += segment.size
    return StepRecord(
        step=step.id,
        branch=step.branch,
        parents=step.parents,
        join=step.join,
        kind=step.kind,
        agent=step.agent,
        model=step.model,
        fork=step.fork,
        loop=step.loop,
        route=pending.place.route,
        server=pending.place.server,
        started=started,
        prompt_bytes=prompt_bytes,
        new_bytes=new_bytes,
        extends=draft.extends,
        context=stretches(draft.segments),
    )


def _name(model: str | None) -> str | None:
    return model if model and len(model) <= NAME_MAX_CHARS and model.isprintable() else None
