"""The stated rule by which the embedded engine counts and compares tokens: four bytes are one token.

A prompt renders to bytes that are cut every four:

    [tools, end]                    where the request has tools and `tool_choice` is not "none"
    role, text, rest, end           per message
    role "assistant"                the generation prompt

Text is UTF-8 padded with 0xFF to a multiple of four. Special tokens start with 0xF5. Neither byte occurs in
UTF-8, so that no text can end a message or forge a role. `rest` is what a message holds besides `role` and a
plain string `content`: its canonical bytes (`hints.canonical`), padded. Hence a message of n bytes of text
alone is 2 + ceil(n / 4) tokens.

The items of a Responses call are rendered as messages are. The raw prompt of a completion is its text, padded
at the end, or its token ids as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmd_agents.hints import canonical, canonical_message
from llmd_agents.hints.canonical import ADVISORY_KEYS

BYTES_PER_TOKEN: Final = 4
PAD: Final = b"\xff"
TOOLS: Final = b"\xf5tls"
END: Final = b"\xf5end"
ROLES: Final = {
    "system": b"\xf5sys",
    "developer": b"\xf5dev",
    "user": b"\xf5usr",
    "assistant": b"\xf5ast",
    "tool": b"\xf5tol",
    "reasoning": b"\xf5rsn",
}
OTHER_ROLE: Final = b"\xf5oth"


class UnrenderablePrompt(ValueError):
    """The request asks for a prompt that cannot be rendered; `param` names the field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        tokens: four bytes per token.
        ends: tokens up to the end of each link of the request's chain (`hints.chain`): first the head
            (the tools), then every message, item or piece.
    """

    tokens: bytes
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tokens) // BYTES_PER_TOKEN


def render(body: Mapping[str, Any]) -> Prompt:
    """Renders a chat-completions body whose `messages` is a list of objects.

    Raises:
        UnrenderablePrompt: if `continue_final_message` and `add_generation_prompt` are both set, or are no
            booleans.
        TypeError: if a message holds something that JSON cannot.
    """
    generation_prompt = _flag(body, "add_generation_prompt")
    continued = bool(_flag(body, "continue_final_message"))
    if continued and generation_prompt:
        raise UnrenderablePrompt(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
            "continue_final_message",
        )
    parts = [render_tools(body)]
    size = len(parts[0])
    ends = [size // BYTES_PER_TOKEN]
    messages: Sequence[Mapping[str, Any]] = body.get("messages") or ()
    for message in messages:
        data = _content(message)
        parts += (ROLES.get(message.get("role", ""), OTHER_ROLE), data, END)
        size += 2 * BYTES_PER_TOKEN + len(data)
        ends.append(size // BYTES_PER_TOKEN)
    if continued:
        if messages:
            parts.pop()
            ends[-1] -= 1
    elif generation_prompt is not False:
        parts.append(ROLES["assistant"])
    return Prompt(b"".join(parts), tuple(ends))


def render_tools(body: Mapping[str, Any]) -> bytes:
    """Renders the tools of a body, if it has any that may be called."""
    tools = body.get("tools")
    if not tools or body.get("tool_choice") == "none":
        return b""
    return TOOLS + _padded(b"".join(map(_tool, tools))) + END


def render_item(role: str, item: Mapping[str, Any]) -> bytes:
    """Renders a message, or an item of a Responses call (`hints.context_items`)."""
    return ROLES.get(role, OTHER_ROLE) + _content(item) + END


def render_raw(data: bytes, piece_bytes: int) -> Prompt:
    """Renders a raw prompt, which is cut into pieces of so many bytes for its chain."""
    tokens = _padded(data)
    ends = [min(end, len(tokens)) for end in range(piece_bytes, len(tokens) + piece_bytes, piece_bytes)]
    return Prompt(tokens, (0, *(end // BYTES_PER_TOKEN for end in ends)))


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise UnrenderablePrompt(f"{name} must be a boolean", name)
    return value


def _tool(tool: Any) -> bytes:
    return canonical_message(tool) if isinstance(tool, Mapping) else canonical(tool)


def _content(message: Mapping[str, Any]) -> bytes:
    content = message.get("content")
    text = b""
    rest: Mapping[str, Any] = message
    if isinstance(content, str):
        text = _padded(content.encode("utf-8", "surrogatepass"))
        if len(message) == 2:
            return text
        rest = {key: value for key, value in message.items() if key != "content"}
    rest = {
        key: value
        for key, value in rest.items()
        if key != "role" and value is not None and key not in ADVISORY_KEYS
    }
    return text + _padded(canonical_message(rest)) if rest else text


def _padded(data: bytes) -> bytes:
    return data + PAD * (-len(data) % BYTES_PER_TOKEN)
