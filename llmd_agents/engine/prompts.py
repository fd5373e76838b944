"""The prompts that an engine was sent, as far as it remembers them: what it can compute again unasked."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from .request import EngineRequest
from .tokenizer import BYTES_PER_TOKEN

PROMPTS_MAX_BYTES: Final = 64 << 20

BYTES_PER_BOUNDARY: Final = 128
"""What remembering where a digest ends is counted as."""


@dataclass(slots=True, eq=False)
class _Prompt:
    request: EngineRequest
    ends: dict[bytes, int]
    bytes: int


class Prompts:
    """Remembers the prompts sent last, by every chain digest that ends in them.

    A prompt that another one extends is remembered as part of that one.

    Args:
        max_bytes: of prompts and their digests; beyond it the least recently sent are forgotten.
    """

    def __init__(self, max_bytes: int = PROMPTS_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._prompts: OrderedDict[_Prompt, None] = OrderedDict()
        self._by_digest: dict[tuple[bytes, str | None], _Prompt] = {}

    def note(self, request: EngineRequest) -> None:
        """Remembers the prompt of a request."""
        ends = dict(request.boundaries)
        size = len(request.prompt) + BYTES_PER_BOUNDARY * len(request.boundaries)
        if request.reply is not None:
            ends[request.reply] = request.reply_end
            size += len(request.output) + BYTES_PER_BOUNDARY
        if not request.boundaries or size > self._max_bytes:
            return
        prompt = _Prompt(request, ends, size)
        for digest in ends:
            key = (digest, request.scope)
            earlier = self._by_digest.get(key)
            if earlier is not None and earlier.request.boundaries[-1][0] == digest:
                self._forget(earlier)
            self._by_digest[key] = prompt
        self._prompts[prompt] = None
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._prompts)))

    def find(self, digest: bytes, scope: str | None) -> EngineRequest | None:
        """Returns a request for the prompt up to the end of a digest; its id and output mean nothing."""
        prompt = self._by_digest.get((digest, scope))
        if prompt is None:
            return None
        request, end = prompt.request, prompt.ends[digest]
        tokens = request.prompt
        boundaries = tuple(each for each in request.boundaries if each[1] <= end)
        if digest == request.reply:
            tokens += request.output
            boundaries += ((digest, end),)
        if not 0 < end <= len(tokens) // BYTES_PER_TOKEN:
            return None
        return EngineRequest(
            request.id,
            tokens[: end * BYTES_PER_TOKEN],
            request.output[:BYTES_PER_TOKEN],
            request.root,
            boundaries,
            scope,
        )

    def _forget(self, prompt: _Prompt) -> None:
        if self._prompts.pop(prompt, prompt) is prompt:
            return  # replaced already
        self._bytes -= prompt.bytes
        for digest in prompt.ends:
            key = (digest, prompt.request.scope)
            if self._by_digest.get(key) is prompt:
                del self._by_digest[key]
