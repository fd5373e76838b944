"""Reads along while the application reads a response; what it gets stays as it is."""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from .answer import Answer
from .quiet import faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from llmd_agents.hints import Outcome

    from .steps import PendingStep


def watch(response: Any, pending: PendingStep) -> None:
    """Lets a step learn from its response's body.

    Args:
        response: of httpx or httpx2. All ways of reading its body but the raw one go through `iter_bytes` or
            `aiter_bytes`, until it is over.
    """
    watched = _Watched(response, pending)
    if response.is_closed:  # there is no stream: a cache or a test gave it whole
        watched.take(response.content)
        return
    if hasattr(response.stream, "__aiter__"):
        watched.stand_in("aiter_bytes", "aclose")
    if hasattr(response.stream, "__iter__"):
        watched.stand_in("iter_bytes", "close")


class _Watched:
    def __init__(self, response: Any, pending: PendingStep) -> None:
        self._response = response
        self._iter_bytes = response.iter_bytes
        self._aiter_bytes = response.aiter_bytes
        self._close = response.close
        self._aclose = response.aclose
        self._pending = pending
        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        self._answer = Answer(streamed=streamed)
        self._begun = self._reading = self._over = False
        self._replaced: dict[str, Any] = {}

    def stand_in(self, *names: str) -> None:
        """Takes the place of methods of the response, until it is over."""
        methods = vars(self._response)
        for name in names:
            self._replaced[name] = methods.get(name)
            methods[name] = getattr(self, name)

    def take(self, content: bytes) -> None:
        self._feed(content)
        self._end("ok")

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        outcome: Outcome = "cancelled"
        try:
            with closing(self._iter_bytes(chunk_size)) as chunks:
                self._reading = True
                for chunk in chunks:
                    self._reading = False
                    self._feed(chunk)
                    yield chunk
                    self._reading = True
            outcome = "ok"
        except Exception:
            outcome = "error"
            raise
        finally:
            self._end(outcome)

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
        outcome: Outcome = "cancelled"
        try:
            async with aclosing(self._aiter_bytes(chunk_size)) as chunks:
                self._reading = True
                async for chunk in chunks:
                    self._reading = False
                    self._feed(chunk)
                    yield chunk
                    self._reading = True
            outcome = "ok"
        except Exception:
            outcome = "error"
            raise
        finally:
            self._end(outcome)

    def close(self) -> None:
        self._on_close()
        self._close()

    async def aclose(self) -> None:
        self._on_close()
        await self._aclose()

    def _on_close(self) -> None:
        # What is read to its end, or fails, closes the response too, and ends by itself.
        if not self._reading:
            self._end("cancelled")

    def _feed(self, chunk: bytes) -> None:
        if self._over:
            return
        with faults("an answer was not read"):
            if not self._begun:
                self._begun = True
                self._pending.on_first_byte()
            self._answer.feed(chunk)

    def _end(self, outcome: Outcome) -> None:
        if self._over:
            return
        self._over = True
        with faults("an answer was not read"):
            self._stand_back()
            if outcome == "ok":
                self._answer.end()
            elif outcome == "cancelled" and self._answer.complete:
                outcome = "ok"  # nothing but the connection's end was left to read
            self._pending.on_end(self._answer, outcome)

    def _stand_back(self) -> None:
        # From here on the response is what it would have been: it can be pickled, and is freed when dropped.
        methods = vars(self._response)
        for name, before in self._replaced.items():
            if methods.get(name) == getattr(self, name):
                if before is None:
                    del methods[name]
                else:
                    methods[name] = before
