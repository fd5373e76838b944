"""A script: what the server answers, call by call, and whether the program kept to it."""

import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .answers import Answer, Content, Failure, Hangup, Reply, as_answer
from .request import RecordedRequest

DEFAULT_REPLY = Reply("fine")
PROBLEMS_MAX = 20
_SHOWN_CHARS = 60

Told: TypeAlias = Answer | Content
"""What a line may say: an answer, or the content of a reply."""


class ScriptError(AssertionError):
    """The program did not keep to the script: a call that no line matches, or a line that no call took."""


@dataclass(frozen=True)
class Line:
    """One line of a script: an answer, and the calls that it is for.

    Conditions that are not given match every call. `kind`, `agent` and `branch` are read from the call's
    hints, so a call without hints matches none of them.

    Attributes:
        answer: what is said; or a function of the request that returns it. It runs on the server's event
            loop, so it must not block.
        kind: of the step.
        agent: of the step.
        branch: its id, such as `main` or `f1.0`.
        model: as the request names it.
        says: what the last message says: text that it contains, or a pattern that is found in it.
        where: any other condition on the request.
        times: how many calls take this line; any number of them, or none, if None.
    """

    answer: Told | Callable[[RecordedRequest], Told]
    kind: str | None = None
    agent: str | None = None
    branch: str | None = None
    model: str | None = None
    says: str | re.Pattern[str] | None = None
    where: Callable[[RecordedRequest], bool] | None = None
    times: int | None = 1

    def __post_init__(self) -> None:
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, and is {self.times}")

    def matches(self, request: RecordedRequest) -> bool:
        """Returns whether all conditions hold; what `where` raises is not caught."""
        step = request.hints.step if request.hints is not None else None
        for name in ("kind", "agent", "branch"):
            wanted = getattr(self, name)
            if wanted is not None and (step is None or getattr(step, name) != wanted):
                return False
        if self.model is not None and request.model != self.model:
            return False
        if isinstance(self.says, str) and self.says not in request.last_text:
            return False
        if isinstance(self.says, re.Pattern) and not self.says.search(request.last_text):
            return False
        return self.where is None or bool(self.where(request))

    def answer_to(self, request: RecordedRequest) -> Answer:
        return as_answer(self.answer(request) if callable(self.answer) else self.answer)

    def __str__(self) -> str:
        conditions = [
            f"{name}={value.pattern if isinstance(value, re.Pattern) else value!r}"
            for name in ("kind", "agent", "branch", "model", "says")
            if (value := getattr(self, name)) is not None
        ]
        if self.where is not None:
            conditions.append(f"where={getattr(self.where, '__name__', 'a function')}")
        return f"{_shown(self.answer)} for {', '.join(conditions) or 'any call'}"


class Script:
    """Lines, of which each call takes the first that matches it and is left.

    So lines without conditions are taken in order; a line with conditions waits for its call, and calls that
    run at the same time get the same answers in every run. A script without lines answers `fine` to any call.

    Args:
        lines: a `Line`, or what a line without conditions says.
    """

    def __init__(self, *lines: Line | Told) -> None:
        self._lines: list[Line] = []
        self._taken: list[int] = []
        self._problems: deque[str] = deque(maxlen=PROBLEMS_MAX)
        self._lock = threading.RLock()
        self.add(*lines)

    def add(self, *lines: Line | Told) -> None:
        """Adds lines at the end; calls that come from now on can take them."""
        with self._lock:
            for line in lines:
                self._lines.append(line if isinstance(line, Line) else Line(line))
                self._taken.append(0)

    def take(self, request: RecordedRequest) -> Answer:
        """Returns the answer to a call, and counts its line as taken.

        A call that no line matches, or whose line's function raises, is answered with status 400 that says
        so, and is one of the `problems`.
        """
        with self._lock:
            if not self._lines:
                return DEFAULT_REPLY
            number = 0
            try:
                for number, line in enumerate(self._lines):
                    left = line.times is None or self._taken[number] < line.times
                    if left and line.matches(request):
                        self._taken[number] += 1
                        return line.answer_to(request)
            except Exception as error:  # noqa: BLE001  (a function of the test's: told where the test sees it)
                return self._refuse(f"line {number + 1} raised {error!r} for {_described(request)}")
            return self._refuse(f"no line is left for {_described(request)}")

    @property
    def problems(self) -> list[str]:
        """What is wrong so far, one text each: calls without a line, then lines without their calls."""
        with self._lock:
            unused = [
                f"line {number + 1} was taken {taken} of {line.times} times: {line}"
                for number, (line, taken) in enumerate(zip(self._lines, self._taken, strict=True))
                if line.times is not None and taken < line.times
            ]
            return [*self._problems, *unused]

    def verify(self) -> None:
        """Checks that every line was taken and every call had one.

        Raises:
            ScriptError: if not; it names the lines and calls.
        """
        __tracebackhide__ = True
        if problems := self.problems:
            raise ScriptError(_explained(problems))

    def explain(self, error: BaseException) -> None:
        """Adds what is wrong, if anything, to an exception that may follow from it."""
        if problems := self.problems:
            error.add_note(_explained(problems))

    def _refuse(self, problem: str) -> Failure:
        self._problems.append(problem)
        # The SDK must not try again: the next line may be meant for another call.
        return Failure(
            400, f"script: {problem}", code="no_line_in_script", headers={"x-should-retry": "false"}
        )


def _explained(problems: list[str]) -> str:
    return "\n".join(["the program did not keep to the script:", *(f"  - {one}" for one in problems)])


def _described(request: RecordedRequest) -> str:
    step = request.hints.step if request.hints is not None else None
    labels = [f"model={request.model!r}"]
    if step is None:
        labels.append("without hints")
    else:
        labels += [f"{name}={getattr(step, name)!r}" for name in ("kind", "agent", "branch")]
    return f"{request.path} ({', '.join(labels)}) that says {_short(request.last_text)!r}"


def _shown(told: Told | Callable[[RecordedRequest], Told]) -> str:
    if callable(told):
        return f"what {getattr(told, '__name__', 'a function')} returns"
    match as_answer(told):
        case Failure(status=status):
            return f"failure {status}"
        case Hangup():
            return "hangup"
        case Reply(calls=calls) if calls:
            return f"calls of {', '.join(call.name for call in calls)}"
        case Reply(text=text):
            return repr(_short(text))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
