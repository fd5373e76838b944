"""How a message of directives is answered over HTTP, and how a peer is asked for what it holds."""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from llmd_agents.hints import KV_EXPORT_PATH, Directive, DirectiveOutcome, Message, Outcomes

from .export import Export, ExportRequest, PeerRead
from .loop import EngineLoop

PEER_TIMEOUT_S: Final = 2.0
PEER_READS_PER_MESSAGE_MAX: Final = 64
PEER_READS_AT_ONCE: Final = 8
EXPORT_MAX_BYTES: Final = 16 << 20

ACTIONS_AT_ONCE: Final = 32
"""After so many actions the engine, and other exchanges, get their turn."""


class Peers:
    """Asks other engines what they hold of a context."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def export(self, read: PeerRead) -> Export | None:
        """Returns what the peer of a prefetch exports; None if it does not hold the context.

        Raises:
            PeerUnreachable: if its URL is none, it does not answer in time, or not as a peer does.
        """
        if not _is_base_url(read.peer):
            raise PeerUnreachable("the peer's URL must begin with http:// or https://")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PEER_TIMEOUT_S))
        url = read.peer.rstrip("/") + KV_EXPORT_PATH
        body = ExportRequest(digest=read.digest, scope=read.scope).model_dump_json()
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise PeerUnreachable(f"the peer answered with status {response.status}")
                data = await response.content.read(EXPORT_MAX_BYTES + 1)
                while len(data) <= EXPORT_MAX_BYTES and (more := await response.content.readany()):
                    data += more
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise PeerUnreachable("the peer cannot be reached") from None
        if len(data) > EXPORT_MAX_BYTES:
            raise PeerUnreachable("the peer's answer is too long")
        try:
            return Export.model_validate_json(data)
        except ValidationError:
            raise PeerUnreachable("the peer's answer cannot be read") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class PeerUnreachable(Exception):
    """A peer could not be asked; says why."""


def _is_base_url(peer: str) -> bool:
    try:
        parts = urlsplit(peer)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


async def carry_out(message: Message, loop: EngineLoop, peers: Peers) -> Outcomes:
    """Carries a message's directives out in their order; reads from peers go on beside each other."""
    outcomes: list[DirectiveOutcome | PeerRead] = []
    reads = 0
    for index, action in enumerate(message.actions):
        if index % ACTIONS_AT_ONCE == ACTIONS_AT_ONCE - 1:
            await asyncio.sleep(0)
        answer = _carry_out(action, loop)
        if isinstance(answer, PeerRead):
            reads += 1
            if reads > PEER_READS_PER_MESSAGE_MAX:
                reason = f"a message may hold {PEER_READS_PER_MESSAGE_MAX} prefetches from peers"
                answer = loop.core.refuse(answer, reason)
        outcomes.append(answer)
    at_once = asyncio.Semaphore(PEER_READS_AT_ONCE)

    async def settle(answer: DirectiveOutcome | PeerRead) -> DirectiveOutcome:
        if isinstance(answer, DirectiveOutcome):
            return answer
        async with at_once:
            try:
                export = await peers.export(answer)
            except PeerUnreachable as error:
                return loop.core.refuse(answer, str(error))
        return loop.receive(answer, export)

    settled: Sequence[DirectiveOutcome]
    if reads:
        settled = await asyncio.gather(*map(settle, outcomes))
    else:
        settled = [answer for answer in outcomes if isinstance(answer, DirectiveOutcome)]
    return Outcomes.model_construct(message_id=message.message_id, outcomes=tuple(settled))


def _carry_out(
    action: tuple[str, Directive] | DirectiveOutcome, loop: EngineLoop
) -> DirectiveOutcome | PeerRead:
    return action if isinstance(action, DirectiveOutcome) else loop.direct(*action)
