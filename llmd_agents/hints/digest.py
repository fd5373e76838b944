"""Chain digests: names for the prefixes of a prompt, computed alike by client, router and engine.

    digest_0 = H(canonical bytes of {model, adapter, tools, template arguments})
    digest_i = H(digest_{i-1} + canonical bytes of message i)          H = xxh3-128, big-endian

Instead of messages a body may have items of a Responses call, or pieces of a raw prompt (`context_items`).
All are fixed by the request itself, so that all parties cut at the same places without agreeing on anything
else. An equal digest predicts an equal token prefix; the server's `cached_tokens` has the last word.
The hash is not cryptographic: residency is keyed by tenant, so a forged digest misleads only its forger.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xxhash import xxh3_128_digest

from .canonical import canonical, canonical_message
from .context_items import (
    PREVIOUS,
    UnreadableContext,
    is_response,
    items_of,
    messages_of,
    prompt_pieces_of,
    response_items_of,
)
from .limits import NAME_MAX_CHARS

DIGEST_BYTES = 16
_DOMAIN = b"llmd-agents chain 1\n"

TEMPLATE_ARGUMENTS = frozenset(
    (
        "chat_template",
        "add_special_tokens",
        "chat_template_kwargs",
        "documents",
        "functions",
        "mm_processor_kwargs",
        "reasoning_effort",
        "tool_choice",
        "truncate_prompt_tokens",
    )
)
"""Request fields that change how the whole prompt is rendered, or are rendered at its head.

`tool_choice` counts only as "none", for which some servers leave the tools out."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a chain.

    Attributes:
        digest: names the prompt from its start to the end of this link.
        size: canonical bytes of this link alone; of the head, those of its tools and template arguments.
        role: the message's role; None for the head (model, tools, template arguments). An item of a Responses
            call that is no message has the role of who wrote it (`assistant`, `tool`) or `reasoning`; the
            context of an earlier response is `previous`, a piece of a raw prompt `prompt`; "" if unknown.
    """

    digest: bytes
    size: int
    role: str | None


def head_digest(body: Mapping[str, Any], *, adapter: str = "") -> Link:
    """Returns link 0: everything that precedes the messages."""
    tools = [
        canonical_message(tool) if isinstance(tool, Mapping) else canonical(tool)
        for tool in items_of(body, "tools")
    ]
    arguments = _arguments(body)
    model = body.get("model")
    if not isinstance(model, str):
        model = ""
    if not tools and not arguments and len(model) <= NAME_MAX_CHARS:
        return _bare_head(model, adapter)
    return _head(model, adapter, tools, arguments)


def _head(model: str, adapter: str, tools: Iterable[bytes], arguments: dict[str, Any]) -> Link:
    head = b"".join((_DOMAIN, canonical([model, adapter, arguments]), b"l", *tools, b"e"))
    size = sum(map(len, tools)) + (len(canonical(arguments)) if arguments else 0)
    return Link(xxh3_128_digest(head), size, None)


@lru_cache(maxsize=256)
def _bare_head(model: str, adapter: str) -> Link:
    return _head(model, adapter, (), {})


def chain(body: Mapping[str, Any], *, adapter: str = "") -> list[Link]:
    """Returns the chain of a body: the head, then one link per message, item or piece of a raw prompt.

    Args:
        body: of a chat completion, a Responses call or a completion, as parsed JSON.
        adapter: name of a LoRA adapter that the model name does not already imply.

    Raises:
        UnreadableContext: if a member that holds context has not the right shape, or is not JSON, or if there
            are several contexts.
    """
    try:
        head = head_digest(body, adapter=adapter)
    except (TypeError, RecursionError, AttributeError) as error:
        raise UnreadableContext(str(error)) from error
    return [head, *chain_after(head, body)]


def chain_after(last: Link, body: Mapping[str, Any]) -> list[Link]:
    """Returns the links that continue a chain: those of a body that holds only what is new.

    Args:
        last: the newest link of the chain so far.
        body: as for `chain`, without anything that precedes the first new message, item or piece.

    Raises:
        UnreadableContext: as for `chain`.
    """
    try:
        digest = last.digest
        links: list[Link] = []
        for role, part in _parts(body):
            data = part if isinstance(part, bytes) else canonical_message(part)
            digest = xxh3_128_digest(digest + data)
            links.append(Link(digest, len(data), role))
        return links
    except (TypeError, RecursionError, AttributeError) as error:
        raise UnreadableContext(str(error)) from error


def lineage_digest(body: Mapping[str, Any], response_id: str, *, adapter: str = "") -> bytes:
    """Returns the digest by which the next call names the context of a response, its output included, if it
    has the same tools and instructions.

    Args:
        body: of the Responses call that was answered.
        response_id: the answer's.

    Raises:
        UnreadableContext: as for `chain`.
    """
    digest = head_digest(body, adapter=adapter).digest
    lineage = {"instructions": body.get("instructions"), PREVIOUS: response_id}
    for _, item in response_items_of(lineage):
        digest = xxh3_128_digest(digest + canonical_message(item))
    return digest


def _parts(body: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any] | bytes]]:
    """Returns role and content (or its canonical bytes) of what follows the head."""
    if is_response(body):
        return response_items_of(body)
    if body.get("messages") is None and body.get("prompt") is not None:
        return (("prompt", piece) for piece in prompt_pieces_of(body))
    return messages_of(body)


def _arguments(body: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {
        name: value
        for name in TEMPLATE_ARGUMENTS & body.keys()
        if (value := body[name]) is not None and (name != "tool_choice" or value == "none")
    }
    if is_response(body):
        reasoning = body.get("reasoning")
        if isinstance(reasoning, Mapping) and reasoning.get("effort") is not None:
            arguments["reasoning_effort"] = reasoning["effort"]
        if body.get("prompt") is not None:
            arguments["prompt"] = body["prompt"]
    elif body.get("messages") is None and body.get("suffix") is not None:
        arguments["suffix"] = body["suffix"]
    return arguments
