"""What the links of a chain stand for in each kind of body: messages, items, pieces of a raw prompt.

Which kind a body is, its members tell: `messages` (chat completions), else `input`, `instructions` or
`previous_response_id` (Responses), else `prompt` (completions). `docs/digests.md` is the specification.
"""

import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from .canonical import ADVISORY_KEYS

PREVIOUS: Final = "previous_response_id"

PIECE_BYTES: Final = 8192
"""A raw prompt is cut into pieces of this size, so that one that extends another shares links with it."""

Item: TypeAlias = tuple[str, Mapping[str, Any]]
"""A role, and what is hashed: a message or an item of a Responses body, as `canonical_message` takes it."""


class UnreadableContext(ValueError):
    """The request body has no context that a chain could be computed for; says which field is wrong."""


def is_response(body: Mapping[str, Any]) -> bool:
    """Returns whether it is the body of a Responses call."""
    return body.get("messages") is None and any(
        body.get(name) is not None for name in ("input", "instructions", PREVIOUS)
    )


def messages_of(body: Mapping[str, Any]) -> Iterator[Item]:
    """Yields the messages of a chat-completions body.

    Raises:
        UnreadableContext: if they are no array of objects.
    """
    for index, message in enumerate(items_of(body, "messages")):
        if not isinstance(message, Mapping):
            raise UnreadableContext(f"messages[{index}] is not an object")
        role = message.get("role")
        yield (role if isinstance(role, str) else ""), message


def response_items_of(body: Mapping[str, Any]) -> Iterator[Item]:
    """Yields what a Responses body puts before the model: instructions, lineage, input.

    Raises:
        UnreadableContext: if a member has another type than it should, or the context is kept by the server
            under a name that stays the same while it grows (`conversation`).
    """
    if body.get("conversation") is not None:
        raise UnreadableContext("conversation names a context that only the server knows")
    if (instructions := _string(body, "instructions")) is not None:
        yield "system", {"role": "system", "content": instructions}
    if (previous := _string(body, PREVIOUS)) is not None:
        yield "previous", {PREVIOUS: previous}
    given = body.get("input")
    if isinstance(given, str):
        yield "user", {"role": "user", "content": given}
        return
    for index, item in enumerate(items_of(body, "input")):
        if not isinstance(item, Mapping):
            raise UnreadableContext(f"input[{index}] is not an object")
        yield response_item(item)


def response_item(item: Mapping[str, Any]) -> Item:
    """Returns the role of an item of a Responses call's input, and what of it is hashed.

    A message is what the same chat message is. What the server alone made up (`id`, `status`) is left out.
    """
    role, kind = item.get("role"), item.get("type")
    if isinstance(role, str) and kind in (None, "message"):
        content = item.get("content")
        if len(item) == 2 and isinstance(content, str):
            return role, item
        message = {key: value for key, value in item.items() if key not in ("type", "id", "status")}
        if "content" in message:
            message["content"] = _content(content)
        return role, message
    if kind is None or kind == "item_reference":
        return "", item
    return _role(kind), {key: value for key, value in item.items() if key not in ("id", "status")}


def prompt_pieces_of(body: Mapping[str, Any]) -> Iterator[bytes]:
    """Yields the canonical bytes of the pieces of a completions body's prompt.

    Raises:
        UnreadableContext: as for `raw_prompt`.
    """
    kind, data = raw_prompt(body)
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        yield b"d6:%s%d:%se" % (kind, len(piece), piece)


def raw_prompt(body: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Returns the one prompt of a completions body.

    Returns:
        `prompt` and the text in UTF-8; or `tokens` and the token ids, of 4 bytes each, big-endian.

    Raises:
        UnreadableContext: if `prompt` is neither a text, nor an array of token ids from 0 to 2^32 − 1, nor an
            array of one of these.
    """
    if body.get("prompt_embeds") is not None:
        raise UnreadableContext("prompt_embeds cannot be read as a prompt")
    prompt = body.get("prompt")
    if isinstance(prompt, list | tuple) and not {str, list, tuple}.isdisjoint(map(type, prompt)):
        if len(prompt) != 1:
            raise UnreadableContext("prompt holds several prompts, which are contexts of their own")
        prompt = prompt[0]
    if isinstance(prompt, str):
        return b"prompt", prompt.encode("utf-8", "surrogatepass")
    if not isinstance(prompt, list | tuple):
        raise UnreadableContext("prompt is neither a string nor an array")
    if not {int}.issuperset(map(type, prompt)):
        raise UnreadableContext("prompt holds what is no token id")
    try:
        tokens = array("I", prompt)
    except OverflowError:
        raise UnreadableContext("prompt holds what is no token id") from None
    if sys.byteorder == "little":
        tokens.byteswap()
    return b"tokens", tokens.tobytes()


def items_of(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    """Returns an array of the body; an empty one where there is none.

    Raises:
        UnreadableContext: if it is something else.
    """
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise UnreadableContext(f"{name} is not an array")
    return value


def _string(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise UnreadableContext(f"{name} is not a string")
    return value


def _role(kind: Any) -> str:
    if kind == "reasoning":
        return "reasoning"
    if isinstance(kind, str) and kind.endswith("_call"):
        return "assistant"
    return "tool" if isinstance(kind, str) and kind.endswith("_output") else ""


def _content(content: Any) -> Any:
    """Returns a message's content as a chat message has it: texts as such, and one text alone as a string."""
    if not isinstance(content, list | tuple):
        return content
    parts = [_part(part) for part in content]
    if len(parts) == 1 and isinstance(parts[0], dict) and parts[0].keys() == {"type", "text"}:
        part = parts[0]
        if part["type"] == "text" and isinstance(part["text"], str):
            return part["text"]
    return parts


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in ("input_text", "output_text"):
        return part
    kept = {
        key: value
        for key, value in part.items()
        if value is not None and key not in ("annotations", "logprobs") and key not in ADVISORY_KEYS
    }
    return {**kept, "type": "text"}
