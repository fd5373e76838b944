"""Chain digests: names for the prefixes of a prompt, computed alike by client, router and engine.

    digest_0 = H(canonical bytes of {model, adapter, tools, template arguments})
    digest_i = H(digest_{i-1} + canonical bytes of message i)          H = xxh3-128, big-endian

The links are fixed by the request's own messages, so all parties cut at the same places without agreeing on
anything else. An equal digest predicts an equal token prefix; the server's `cached_tokens` has the last word.
The hash is not cryptographic: residency is keyed by tenant, so a forged digest misleads only its forger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_128_digest

from .canonical import canonical, canonical_message

DIGEST_BYTES = 16
_DOMAIN = b"llmd-agents chain 1\n"

TEMPLATE_ARGUMENTS = (
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
"""Request fields that change how the whole prompt is rendered, or are rendered at its head.

`tool_choice` counts only as "none", for which some servers leave the tools out."""


class UnreadableContext(ValueError):
    """The request body has no context that a chain could be computed for; says which field is wrong."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a chain.

    Attributes:
        digest: names the prompt from its start to the end of this link.
        size: canonical bytes of this link alone; of the head, those of its tools and template arguments.
        role: the message's role; None for the head (model, tools, template arguments).
    """

    digest: bytes
    size: int
    role: str | None


def head_digest(body: Mapping[str, Any], *, adapter: str = "") -> Link:
    """Returns link 0: everything that precedes the messages."""
    tools = [
        canonical_message(tool) if isinstance(tool, Mapping) else canonical(tool)
        for tool in _list(body, "tools")
    ]
    arguments = {
        name: value
        for name in TEMPLATE_ARGUMENTS
        if (value := body.get(name)) is not None and (name != "tool_choice" or value == "none")
    }
    model = body.get("model")
    head = b"".join(
        (
            _DOMAIN,
            canonical([model if isinstance(model, str) else "", adapter, arguments]),
            b"l",
            *tools,
            b"e",
        )
    )
    size = sum(map(len, tools)) + (len(canonical(arguments)) if arguments else 0)
    return Link(xxh3_128_digest(head), size, None)


def chain(body: Mapping[str, Any], *, adapter: str = "") -> list[Link]:
    """Returns the chain of a chat-completions body: the head, then one link per message.

    Args:
        body: the request as parsed JSON.
        adapter: name of a LoRA adapter that the model name does not already imply.

    Raises:
        UnreadableContext: if `messages` or `tools` is not a list of the right shape, or not JSON.
    """
    try:
        link = head_digest(body, adapter=adapter)
        links = [link]
        digest = link.digest
        for index, message in enumerate(_list(body, "messages")):
            if not isinstance(message, Mapping):
                raise UnreadableContext(f"messages[{index}] is not an object")
            data = canonical_message(message)
            digest = xxh3_128_digest(digest + data)
            role = message.get("role")
            links.append(Link(digest, len(data), role if isinstance(role, str) else ""))
        return links
    except (TypeError, RecursionError, AttributeError) as error:
        raise UnreadableContext(str(error)) from error


def _list(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UnreadableContext(f"{name} is not an array")
    return value
