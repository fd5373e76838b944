"""Which engine stores which response: it alone can continue, show or delete it."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

RESPONSES_MAX: Final = 100_000
ID_MAX_CHARS: Final = 256


@dataclass(slots=True)
class StoredAt:
    """Where a response is.

    Attributes:
        digest: of the prompt that it answers; None if that is not known.
        output_tokens: its length; None until it has been answered to its end.
    """

    engine: str
    digest: bytes | None
    output_tokens: int | None = None


class StoredResponses:
    """Responses that have passed by, by tenant and id; beyond `most` the least recently used are dropped."""

    def __init__(self, *, most: int = RESPONSES_MAX) -> None:
        self._most = most
        self._places: OrderedDict[tuple[str, str], StoredAt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def note(self, tenant: str, response_id: str, place: StoredAt) -> None:
        if len(response_id) > ID_MAX_CHARS:
            return
        self._places[tenant, response_id] = place
        self._places.move_to_end((tenant, response_id))
        if len(self._places) > self._most:
            self._places.popitem(last=False)

    def find(self, tenant: str, response_id: str) -> StoredAt | None:
        place = self._places.get((tenant, response_id))
        if place is not None:
            self._places.move_to_end((tenant, response_id))
        return place

    def forget(self, tenant: str, response_id: str) -> None:
        self._places.pop((tenant, response_id), None)
