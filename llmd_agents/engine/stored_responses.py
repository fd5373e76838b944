"""The responses that the engine stores: to be continued (`previous_response_id`), shown and deleted."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

STORED_MAX: Final = 4096
STORED_MAX_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that has been answered.

    Attributes:
        body: as it was answered, in JSON.
        context: what was said up to its end, rendered, without tools and instructions, of which each call
            brings its own.
        turns: replies in that.
        scope: of the call's cache salt (`hints.residency_scope`): who has another one finds nothing.
    """

    id: str
    body: bytes
    context: bytes
    turns: int
    scope: str | None

    @property
    def size(self) -> int:
        return len(self.body) + len(self.context)


class StoredResponses:
    """Responses by id; beyond `most`, or `max_bytes` of them, the oldest are forgotten."""

    def __init__(self, *, most: int = STORED_MAX, max_bytes: int = STORED_MAX_BYTES) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._bytes = 0
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()

    def __len__(self) -> int:
        return len(self._responses)

    def put(self, response: StoredResponse) -> None:
        self._responses[response.id] = response
        self._bytes += response.size
        while len(self._responses) > self._most or self._bytes > self._max_bytes:
            self.delete(next(iter(self._responses)))

    def get(self, response_id: str) -> StoredResponse | None:
        return self._responses.get(response_id)

    def delete(self, response_id: str) -> bool:
        """Forgets a response; those that continue it keep what it said. Returns False if there is none."""
        response = self._responses.pop(response_id, None)
        if response is None:
            return False
        self._bytes -= response.size
        return True
