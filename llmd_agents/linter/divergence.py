"""What the linter finds: where and why a prompt stopped being a prefix of the next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why the provider's cache ends where it does."""

    TIMESTAMP = "timestamp"
    RANDOM_ID = "random_id"
    NUMBER = "number"
    REORDERED_TOOLS = "reordered_tools"
    REORDERED_KEYS = "reordered_keys"
    REFORMATTED = "reformatted"
    CHANGED_TOOLS = "changed_tools"
    CHANGED_MODEL = "changed_model"
    CHANGED_ARGUMENTS = "changed_arguments"
    DROPPED_REASONING = "dropped_reasoning"
    DROPPED_MESSAGE = "dropped_message"
    INSERTED_MESSAGE = "inserted_message"
    REORDERED_MESSAGES = "reordered_messages"
    SHORTENED = "shortened"
    EDITED_TURN = "edited_turn"
    UNKNOWN = "unknown"


_REMEDIES = {
    Cause.TIMESTAMP: "Leave the time out, round it to the day, or put it into the newest message.",
    Cause.RANDOM_ID: "Make the id once per conversation, not once per call, or leave it out.",
    Cause.NUMBER: "Put what is counted or measured anew for each call into the newest message.",
    Cause.REORDERED_TOOLS: "Send the tools in one order, for example sorted by name.",
    Cause.REORDERED_KEYS: "Serialize JSON with one key order, or keep the text as it was first sent.",
    Cause.REFORMATTED: "Send earlier text back byte by byte, without stripping or new spacing.",
    Cause.CHANGED_TOOLS: "Declare all tools from the start; restrict them by tool_choice or by instruction.",
    Cause.CHANGED_MODEL: "Stay with one model per conversation: each has a cache of its own.",
    Cause.CHANGED_ARGUMENTS: "Keep arguments that shape the whole prompt as they are for a conversation.",
    Cause.DROPPED_REASONING: "Send earlier reasoning back unchanged, or never send it.",
    Cause.DROPPED_MESSAGE: "Drop old messages rarely and many at once, rather than a few on every turn.",
    Cause.INSERTED_MESSAGE: "Append new messages at the end instead of between earlier ones.",
    Cause.REORDERED_MESSAGES: "Keep messages in the order in which they were first sent.",
    Cause.SHORTENED: "Shorten a result before it is first sent, or compact the whole history at once.",
    Cause.EDITED_TURN: "Leave sent messages as they are; say what changed in a new message.",
    Cause.UNKNOWN: "Record the requests' bodies to see what changed there.",
}


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The text around a divergence, in one line. It is contents: for the user's own eyes, never for logs.

    Attributes:
        before: what the earlier prompt said.
        after: what the newer prompt says.
        caret: column, in both, of the first character that differs.
    """

    before: str
    after: str
    caret: int


@dataclass(frozen=True, slots=True)
class Divergence:
    """One place where a prompt is no prefix of the next one of its conversation.

    Attributes:
        branch: what the observer called the branch.
        model: the newer request's model; "" if it names none.
        message: index in the newer request's `messages` (or `input`); None for what stands outside of it.
        role: of that message; "tool_definition", "model", "argument", "system" or "prompt" outside.
        field: which text differs, as a path: `content`, `content[1].text`, `tools[2]`, `system`, `prompt`,
            `tool_calls[0].function.arguments`. A text is compared as it is, any other JSON value as compact
            JSON in the order of keys in which it was sent.
        byte: where, in the UTF-8 bytes of that text, its first differing character begins.
        token: offset in the prompt, where the recording has positions in tokens only; `byte` is then 0.
        what: what happened, in words, without contents.
        kept_bytes: text of the prompt before the divergence, which a cache still serves.
        lost_bytes: text behind it that was in the earlier prompt too, and is computed again.
        lost_tokens: the same in tokens, estimated unless `token` is given.
        excerpt: contents; None where the recording has none. Not part of the `repr`.
    """

    branch: str
    model: str
    cause: Cause
    message: int | None
    role: str
    field: str
    byte: int
    what: str
    kept_bytes: int
    lost_bytes: int
    lost_tokens: int
    token: int | None = None
    excerpt: Excerpt | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Names the cause: the same for each turn and branch that it hits."""
        return f"{self.cause}/{self.role}/{_generalized(self.field)}"

    @property
    def remedy(self) -> str:
        return _REMEDIES[self.cause]

    @property
    def where(self) -> str:
        """The place: `message 3, byte 812`, or `tools[2], byte 40`."""
        if self.token is not None:
            return f"token {self.token:,}"
        if self.message is None:
            return f"{self.field}, byte {self.byte:,}"
        inside = "" if self.field == "content" else f", {self.field}"
        return f"message {self.message}{inside}, byte {self.byte:,}"


@dataclass(frozen=True, slots=True)
class Compaction:
    """A history was replaced by a much shorter one: meant, and so no divergence.

    Attributes:
        messages_before: messages of the earlier prompt.
        messages_after: messages of the newer one.
        kept_bytes: text at the start that both share.
        dropped_bytes: text of the earlier prompt that the newer one no longer has.
    """

    branch: str
    model: str
    messages_before: int
    messages_after: int
    kept_bytes: int
    dropped_bytes: int


def _generalized(path: str) -> str:
    return "".join(char for char in path if not char.isdigit())
