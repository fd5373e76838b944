"""`assert_prefix_stable`: for users' own tests."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, overload

from .divergence import Cause, Compaction, Divergence
from .findings import sentence
from .live import Watching, watching
from .prompt import parse_body, read_prompt
from .recorded import scope_of_hints

if TYPE_CHECKING:
    from llmd_agents.hints import Hints

    from .prices import Prices

_SHOWN = 5
_MODEL_CALLS = ("/chat/completions", "/completions", "/responses", "/messages")


class RecordedCall(Protocol):
    """What is used of a request that `llmd_agents.testing` recorded."""

    @property
    def path(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def hints(self) -> Hints | None: ...


class Recording(Protocol):
    """A recording server."""

    @property
    def requests(self) -> Iterable[RecordedCall]: ...


@overload
def assert_prefix_stable(
    *,
    allow: Collection[Cause | str] = (),
    compaction: bool = True,
    prices: Prices | None = None,
) -> AbstractContextManager[Watching]: ...


@overload
def assert_prefix_stable(
    source: Recording | Iterable[bytes | str | Mapping[str, Any]],
    *,
    allow: Collection[Cause | str] = (),
    compaction: bool = True,
    prices: Prices | None = None,
) -> None: ...


def assert_prefix_stable(
    source: Recording | Iterable[bytes | str | Mapping[str, Any]] | None = None,
    *,
    allow: Collection[Cause | str] = (),
    compaction: bool = True,
    prices: Prices | None = None,
) -> AbstractContextManager[Watching] | None:
    """Asserts that every prompt extends the one before it in its conversation.

        assert_prefix_stable(server)             # a recording server of llmd_agents.testing
        assert_prefix_stable([body, body, …])    # request bodies, in the order in which they were sent
        with assert_prefix_stable():             # all calls of instrumented clients in the block
            run_my_agent()

    The error says where, why and what to do, and shows an excerpt of both prompts.

    Args:
        source: where the requests are; nothing to use it as a context manager.
        allow: causes that are fine, such as "dropped_reasoning".
        compaction: whether a history may be replaced by a much shorter one.
        prices: what tokens cost, if the error is to tell.

    Raises:
        AssertionError: if a prompt diverged, or if there was no request to look at.
        ValueError: if a cause in `allow` does not exist, or a given body is no request with a prompt
            (`UnreadablePrompt`).
    """
    allowed = frozenset(Cause(cause) for cause in allow)
    if source is None:
        return _asserting(allowed, compaction, prices)
    seen = Watching(prices)
    for branch, body in _calls_of(source):
        seen.observe(branch, body)
    _check(seen, allowed, compaction, prices)
    return None


@contextmanager
def _asserting(allowed: frozenset[Cause], compaction: bool, prices: Prices | None) -> Iterator[Watching]:
    with watching(prices) as seen:
        yield seen
    _check(seen, allowed, compaction, prices)


def _calls_of(source: Any) -> Iterator[tuple[str, bytes]]:
    requests = getattr(source, "requests", None)
    if requests is None:
        for body in source:
            encoded = _encoded(body)
            read_prompt(parse_body(encoded))  # what cannot be read would be asserted in vain
            yield "", encoded
        return
    for request in requests:
        if request.path.endswith(_MODEL_CALLS):
            yield "" if request.hints is None else scope_of_hints(request.hints), request.body


def _encoded(body: bytes | str | Mapping[str, Any]) -> bytes:
    if isinstance(body, bytes):
        return body
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _check(seen: Watching, allowed: frozenset[Cause], compaction: bool, prices: Prices | None) -> None:
    __tracebackhide__ = True  # pytest then points at the caller's line
    if not seen.requests:
        raise AssertionError("no request was seen: is the client instrumented, and did it make a call?")
    bad = [one for one in seen.divergences if one.cause not in allowed]
    shrunk = [] if compaction else seen.compactions
    if not bad and not shrunk:
        return
    shown = [_explained(one, prices) for one in bad[:_SHOWN]]
    shown += [_compacted(one) for one in shrunk[: max(_SHOWN - len(shown), 0)]]
    more = len(bad) + len(shrunk) - len(shown)
    if more:
        shown.append(f"… and {more:,} more")
    raise AssertionError("\n\n".join(["the prompt's prefix is not stable", *shown]))


def _explained(one: Divergence, prices: Prices | None) -> str:
    on = f" (branch {one.branch})" if one.branch else ""
    lines = [f"{sentence(one, prices)}{on}"]
    if one.excerpt is not None:
        lines += [
            f"  before  {one.excerpt.before}",
            f"  after   {one.excerpt.after}",
            f"          {' ' * one.excerpt.caret}^",
        ]
    lines.append(f"  {one.remedy} To accept it: allow=[{one.cause.value!r}].")
    return "\n".join(lines)


def _compacted(one: Compaction) -> str:
    return (
        f"the history was replaced by a shorter one: {one.messages_before:,} messages became "
        f"{one.messages_after:,}, {one.dropped_bytes:,} bytes were dropped"
    )
