"""Lints recorded traffic: every request is compared with the one that it continues."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING

from .blocks import compare_blocks
from .divergence import Compaction, Divergence
from .findings import Findings
from .prompt import UnreadablePrompt, read_prompt
from .recorded import RecordedBlocks, RecordedRequest
from .watch import PrefixWatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .prices import Prices
    from .recorded import Recorded

_SCOPES_MAX = 4096
_TIPS_MAX = 16


class Linting:
    """What the requests read so far show. Memory does not grow with their number.

    Attributes:
        requests: how many prompts were read.
        unreadable: how many bodies had none that could be.
        compactions: how many histories were replaced by shorter ones.
        tokens: of all prompts together; estimated where the recording does not tell.
        findings: divergences by cause.
    """

    def __init__(self, prices: Prices | None = None, min_tokens: int = 1) -> None:
        self.requests = 0
        self.unreadable = 0
        self.compactions = 0
        self.tokens = 0
        self.findings = Findings(prices)
        self._min_tokens = min_tokens
        self._watch = PrefixWatch()
        self._tips: OrderedDict[str, list[tuple[int, ...]]] = OrderedDict()

    def add(self, recorded: Recorded) -> Divergence | None:
        """Takes the next request; returns what keeps it from extending an earlier one, if that counts."""
        found = self._blocks(recorded) if isinstance(recorded, RecordedBlocks) else self._body(recorded)
        if isinstance(found, Compaction):
            self.compactions += 1
        if not isinstance(found, Divergence) or found.lost_tokens < self._min_tokens:
            return None
        self.findings.add(found)
        return found

    def _body(self, recorded: RecordedRequest) -> Divergence | Compaction | None:
        try:
            size = sum(unit.size for unit in read_prompt(recorded.body).units)
        except UnreadablePrompt:
            self.unreadable += 1
            return None
        self.requests += 1
        if recorded.tokens is not None:
            self._watch.learn(size, recorded.tokens)
        self.tokens += recorded.tokens or round(size / self._watch.bytes_per_token)
        return self._watch.observe(recorded.scope, _encoded(recorded.body), parsed=recorded.body)

    def _blocks(self, recorded: RecordedBlocks) -> Divergence | Compaction | None:
        self.requests += 1
        self.tokens += len(recorded.blocks) * recorded.block_size
        tips = self._tips.setdefault(recorded.scope, [])
        self._tips.move_to_end(recorded.scope)
        if len(self._tips) > _SCOPES_MAX:
            self._tips.popitem(last=False)
        # An equal id is an equal prefix, so the conversation is the one that shares most blocks.
        earlier = max(tips, key=lambda tip: _shared(tip, recorded.blocks), default=None)
        if earlier is None or not _shared(earlier, recorded.blocks):
            tips.append(recorded.blocks)
            del tips[:-_TIPS_MAX]
            return None
        tips.remove(earlier)
        tips.append(recorded.blocks)
        return compare_blocks(
            earlier,
            recorded.blocks,
            block_size=recorded.block_size,
            branch=recorded.scope,
            model=recorded.model,
        )


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
