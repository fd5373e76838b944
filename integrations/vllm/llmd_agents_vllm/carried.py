"""How hints travel inside a request: as one member of vLLM's `kv_transfer_params`.

    "kv_transfer_params": {"llmd_agents": {
        "v": 1, "chain": [["<digest, hex>", 1234], …], "header": "<x-llmd-hints>", "scope": "<tenant>"}}

The middleware writes it (`fold`), the connector and the scheduler read it (`read`). A chain entry is a chain
digest with the canonical bytes of the context up to it. `header` is the request header as it was sent.
`scope` stands for the request's `cache_salt`, for parts that do not see that (`hints.residency_scope`).
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from llmd_agents.hints import (
    Hints,
    Link,
    UnreadableContext,
    UnreadableHints,
    chain,
    decode_hints,
    residency_scope,
)
from llmd_agents.hints.dialects.vllm import XARG
from llmd_agents.hints.limits import HEADER_MAX_BYTES

KEY: Final = "llmd_agents"
VERSION: Final = 1

AHEAD: Final = "llmd-ahead-"
"""How ids of requests begin that bring context ahead of its use, and are no use of it."""

FIRST_LINKS: Final = 8
LINKS_MAX: Final = 512
"""Most links that are carried; of a longer chain the first `FIRST_LINKS` and the newest.

The first are what programs share, the newest are what the next step extends."""

_PARAMS: Final = "kv_transfer_params"
_DIGEST_BYTES: Final = 16
_SIZE_MAX: Final = 2**53
_HEADERS_KEPT: Final = 512
_WHITE_SPACE: Final = b" \t\r\n"

log = logging.getLogger("vllm.llmd_agents")


@dataclass(frozen=True, slots=True)
class Carried:
    """What one request brought along.

    Attributes:
        links: (chain digest, canonical bytes of the context up to it), ascending; empty without a chain.
        hints: what its header declared; None without one.
    """

    links: tuple[tuple[bytes, int], ...]
    hints: Hints | None


class _NotPlain(ValueError):
    """Readers of JSON may differ in what the body says."""


def fold(body: bytes, header: bytes | None) -> bytes:
    """Returns a request body with its chain and its hints added; the rest of it stays as it is, to the byte.

    The client's own `kv_transfer_params` are kept, apart from our key: it tells tenants apart. To a body that
    is not a plain JSON object (UTF-8, no key twice) nothing is added. Never raises.

    Args:
        body: of a chat completion, or of a completion, which has no chain.
        header: the value of `x-llmd-hints`; None without one, and then `vllm_xargs` may hold it.
    """
    try:
        return _fold(body, header)
    except (ValueError, RecursionError):
        return body
    except Exception:
        log.exception("folding hints into a request failed; it goes on without them")
        return body


def read(params: Mapping[str, Any] | None) -> Carried | None:
    """Returns what `kv_transfer_params` carry; None when there is nothing usable. Never raises."""
    try:
        return _read(params)
    except Exception:
        log.exception("reading carried hints failed")
        return None


# --- writing


def _fold(body: bytes, header: bytes | None) -> bytes:
    try:
        members = _plain(body)
    except _NotPlain:
        return _without_ours(body)
    carried: dict[str, Any] = {"v": VERSION}
    if links := _chain(members):
        carried["chain"] = links
    if (value := _readable(_xarg(members) if header is None else header)) is not None:
        carried["header"] = value
    before = members.get(_PARAMS)
    if before is None:
        before = {}
    elif not isinstance(before, dict):
        return body
    if len(carried) == 1:
        if KEY not in before:
            return body
        return _splice(body, _PARAMS, {name: value for name, value in before.items() if name != KEY})
    salt = members.get("cache_salt")
    if isinstance(salt, str) and (scope := residency_scope(salt)) is not None:
        carried["scope"] = scope
    return _splice(body, _PARAMS, {**before, KEY: carried}, first=not members)


def _xarg(members: Mapping[str, Any]) -> bytes | None:
    """Returns the header that a client put into the body, as proxies may drop it where it belongs."""
    xargs = members.get("vllm_xargs")
    value = xargs.get(XARG) if isinstance(xargs, dict) else None
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else None


def _plain(body: bytes) -> dict[str, Any]:
    """Reads a body that all readers read alike.

    Raises:
        _NotPlain: if it is none.
    """
    text = body.strip(_WHITE_SPACE)
    if not (text.startswith(b"{") and text.endswith(b"}")) or b"\0" in text:
        raise _NotPlain
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise _NotPlain from None
    # Python's own reader, because it is the one that vLLM reads the body with.
    members: dict[str, Any] = json.loads(decoded, object_pairs_hook=_members)
    return members


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotPlain
    return members


def _without_ours(body: bytes) -> bytes:
    """Returns a body that vLLM may be able to read, without our key."""
    value = json.loads(body)
    params = value.get(_PARAMS) if isinstance(value, dict) else None
    if not isinstance(params, dict) or KEY not in params:
        return body
    del params[KEY]
    return json.dumps(value).encode("ascii")


def _splice(body: bytes, name: str, value: Any, *, first: bool = False) -> bytes:
    """Adds a member at the end of a JSON object, where it overrides an earlier one of its name: vLLM's reader
    takes the last of several equal keys."""
    end = body.rindex(b"}")
    separator = b"" if first else b","
    member = json.dumps({name: value}, separators=(",", ":"))[1:].encode("ascii")
    return body[:end] + separator + member + body[end + 1 :]


def _chain(members: Mapping[str, Any]) -> list[list[Any]]:
    if not isinstance(members.get("messages"), list):
        return []
    try:
        links = _cumulative(chain(members))
    except UnreadableContext:
        # The engine has the last word on whether that is an error.
        return []
    if len(links) > LINKS_MAX:
        links = links[:FIRST_LINKS] + links[FIRST_LINKS - LINKS_MAX :]
    return [[digest.hex(), size] for digest, size in links]


def _cumulative(links: Iterable[Link]) -> list[tuple[bytes, int]]:
    result, size = [], 0
    for link in links:
        size += link.size
        result.append((link.digest, size))
    return result


def _readable(header: bytes | None) -> str | None:
    if header is None or len(header) > HEADER_MAX_BYTES:
        return None
    try:
        value = header.decode("ascii")
    except UnicodeDecodeError:
        return None
    return value if _hints(value) is not None else None


@lru_cache(maxsize=_HEADERS_KEPT)
def _hints(value: str) -> Hints | None:
    """Reading takes longer than the rest together, and each process reads a header two or three times."""
    try:
        return decode_hints(value).hints
    except UnreadableHints:
        return None


# --- reading


def _read(params: Mapping[str, Any] | None) -> Carried | None:
    carried = params.get(KEY) if isinstance(params, Mapping) else None
    if not isinstance(carried, Mapping):
        return None
    version = carried.get("v")
    if version != VERSION or isinstance(version, bool):
        return None
    links = _links(carried.get("chain"))
    header = carried.get("header")
    hints = _hints(header) if isinstance(header, str) and len(header) <= HEADER_MAX_BYTES else None
    return Carried(links, hints) if links or hints is not None else None


def _links(listed: Any) -> tuple[tuple[bytes, int], ...]:
    """Returns the links of a chain; none at all when one of them is wrong."""
    if not isinstance(listed, Sequence) or isinstance(listed, str | bytes) or len(listed) > LINKS_MAX:
        return ()
    links: list[tuple[bytes, int]] = []
    before = -1
    for entry in listed:
        link = _link(entry)
        if link is None or link[1] <= before:
            return ()
        before = link[1]
        links.append(link)
    return tuple(links)


def _link(entry: Any) -> tuple[bytes, int] | None:
    if not isinstance(entry, Sequence) or isinstance(entry, str | bytes) or len(entry) != 2:
        return None
    digest, size = entry
    if not isinstance(digest, str) or len(digest) != 2 * _DIGEST_BYTES:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _SIZE_MAX:
        return None
    try:
        value = bytes.fromhex(digest)
    except ValueError:
        return None
    return (value, size) if len(value) == _DIGEST_BYTES else None
