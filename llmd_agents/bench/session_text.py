"""Text for recorded prompts: blocks of it are equal exactly where the recording's blocks are.

A recording says how long each prompt is and which of its blocks are equal, not what it said. `SessionText`
makes chat messages that the embedded engine's tokenizer (4 bytes a token, one token before and one after
each message) turns into a prompt of exactly that length, block for block.

Where messages begin and end is not recorded either. It is decided once for each block, when the block is
first seen, and kept in a tree of blocks; so prompts that share blocks share those boundaries. New context is
laid out as the reply to the prompt before (as long as that reply was) and a user message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from xxhash import xxh3_128_hexdigest

BYTES_PER_TOKEN = 4
_END = "end"

BlockId: TypeAlias = "int | tuple[str, int]"


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages of one recorded prompt, and how a template must end it.

    `continue_final_message` and `add_generation_prompt` are vLLM's request fields. Only prompts that a later
    one cuts short within a shared block need other values than the defaults.
    """

    messages: list[dict[str, str]]
    continue_final_message: bool = False
    add_generation_prompt: bool = True

    @property
    def extra_body(self) -> dict[str, bool]:
        """Returns the fields that differ from the defaults."""
        body: dict[str, bool] = {}
        if self.continue_final_message:
            body["continue_final_message"] = True
        if not self.add_generation_prompt:
            body["add_generation_prompt"] = False
        return body


@dataclass(slots=True)
class _Block:
    """A block in the tree. `marks` are its special tokens: (position in the block, role or `end`)."""

    text: str
    marks: list[tuple[int, str]] = field(default_factory=list)
    filled: int = 0
    children: dict[BlockId, _Block] = field(default_factory=dict)


class SessionText:
    """Makes the prompts of one session, in the order in which they were recorded on each branch.

    Args:
        session: keeps the text of sessions apart.
        block_size: tokens in a block.
    """

    def __init__(self, session: str, block_size: int) -> None:
        self._session = session
        self._block_size = block_size
        self._root = _Block("")

    def prompt(
        self,
        blocks: tuple[int, ...],
        tokens: int,
        *,
        head_tokens: int = 0,
        reply_tokens: int = 0,
        next_blocks: tuple[int, ...] = (),
    ) -> ChatPrompt:
        """Returns the messages of a prompt.

        Args:
            blocks: ids of its full blocks.
            tokens: its whole length.
            head_tokens: length of the system message, if this prompt begins a tree of its own.
            reply_tokens: length of the reply to the branch's previous prompt.
            next_blocks: the branch's next prompt; where it goes on, the last, partial block is taken from it.
        """
        path = self._path(blocks, tokens, next_blocks)
        marks = [
            (index * self._block_size + position, mark)
            for index, block in enumerate(path)
            for position, mark in block.marks
        ]
        filled = self._filled(path)
        if filled < tokens:
            new = _layout(filled, tokens, marks, head_tokens, reply_tokens)
            for position, mark in new:
                index, offset = divmod(position, self._block_size)
                path[index].marks.append((offset, mark))
            for index, block in enumerate(path):
                block.filled = max(block.filled, min(tokens - index * self._block_size, self._block_size))
            marks += new
        text = "".join(block.text for block in path)
        return _messages(text, [mark for mark in marks if mark[0] < tokens], tokens)

    def _path(self, blocks: tuple[int, ...], tokens: int, next_blocks: tuple[int, ...]) -> list[_Block]:
        path: list[_Block] = []
        at = self._root
        for block in blocks:
            at = self._child(at, block)
            path.append(at)
        if tokens > len(blocks) * self._block_size:
            count = len(blocks)
            if len(next_blocks) > count and next_blocks[:count] == blocks:
                tail: BlockId = next_blocks[count]
            else:
                tail = ("loose", len(at.children))
            path.append(self._child(at, tail))
        return path

    def _child(self, parent: _Block, block: BlockId) -> _Block:
        child = parent.children.get(block)
        if child is None:
            seed = xxh3_128_hexdigest(f"{self._session}\0{block}".encode())
            size = self._block_size * BYTES_PER_TOKEN
            child = parent.children[block] = _Block((seed * (size // len(seed) + 1))[:size])
        return child

    def _filled(self, path: list[_Block]) -> int:
        """Returns how many tokens from the start have their messages decided."""
        filled = 0
        for block in path:
            filled += block.filled
            if block.filled < self._block_size:
                break
        return filled


def _layout(
    start: int, end: int, marks: list[tuple[int, str]], head_tokens: int, reply_tokens: int
) -> list[tuple[int, str]]:
    """Returns the special tokens of new context from `start` to `end`, so that the prompt ends with the
    assistant's role token wherever there is room for that."""
    last = marks[-1] if marks else (-1, _END)
    new: list[tuple[int, str]] = []
    at = start
    if last[1] != _END:
        # A message is open: the reply, if its role token was the last thing laid out.
        length = reply_tokens if last == (start - 1, "assistant") else 0
        at += max(min(length, end - at - 4), 0)
        if end - at < 2:
            return []
        if end - at < 4:
            return [(end - 2, _END), (end - 1, "assistant")]
        new.append((at, _END))
        at += 1
    elif start == 0 and 2 <= head_tokens <= end - 3:
        new += [(0, "system"), (head_tokens - 1, _END)]
        at = head_tokens
    if end - at >= 3:
        return [*new, (at, "user"), (end - 2, _END), (end - 1, "assistant")]
    return [*new, (at, "assistant" if end - at == 1 else "user")]


def _messages(text: str, marks: list[tuple[int, str]], tokens: int) -> ChatPrompt:
    messages: list[dict[str, str]] = []
    role: str | None = None
    begin = 0
    for position, mark in marks:
        if mark == _END and role is not None:
            content = text[begin * BYTES_PER_TOKEN : position * BYTES_PER_TOKEN]
            messages.append({"role": role, "content": content})
            role = None
        else:
            role, begin = mark, position + 1
    if role == "assistant" and begin == tokens:
        return ChatPrompt(messages)
    if role is None:
        return ChatPrompt(messages, add_generation_prompt=False)
    content = text[begin * BYTES_PER_TOKEN : tokens * BYTES_PER_TOKEN]
    messages.append({"role": role, "content": content})
    return ChatPrompt(messages, continue_final_message=True, add_generation_prompt=False)
