"""The prompt of a request, read from its body: as little of it as has not been read before.

A conversation sends all of itself with every turn. Its beginning is recognised by a hash, and only what
follows is parsed, so that a turn of a long conversation costs no more than a short one, apart from the hash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_digest

from llmd_agents.hints import Link, chain
from llmd_agents.hints.context_items import PREVIOUS
from llmd_agents.hints.digest import chain_after

from .json_body import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DECODER = json.JSONDecoder()
_LISTS = ("messages", "input")
"""Members of a body whose items make links of their own. Bodies without are parsed whole."""

SHORT_BYTES = 4096
"""A body up to this length is parsed whole each time, which costs less than recognising it."""

_TAIL_BYTES = 64


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt as its chain of links.

    Attributes:
        links: of the whole prompt.
        leading: how many of them stand before the first message or item.
        fresh: index of the first link that was not taken from an earlier prompt.
        items: the messages or items behind the last links, from `fresh` on or later, until forgotten.
        model: as the request names it.
        name: of the list that the messages or items are in.
        start: where they start in the body.
        end: where the last one ends in the body; 0 if the body has another form.
        tail: the last bytes before `end`.
        fingerprint: hash of the body up to `end`.
        rest: the body from there on.
        grown_from: the last digest of the prompt whose body this one's is, with something put in at its end.
    """

    links: list[Link]
    leading: int
    fresh: int
    items: Sequence[Any]
    model: str | None
    name: str = ""
    start: int = 0
    end: int = 0
    tail: bytes = b""
    fingerprint: bytes = b""
    rest: str = ""
    grown_from: bytes | None = None

    def lineage(self, response_id: str) -> bytes:
        """Returns the digest by which a call names this prompt and the response to it (`lineage_digest`)."""
        own = [link for link in self.links[: self.leading] if link.role != "previous"]
        return chain_after(own[-1], {PREVIOUS: response_id})[-1].digest

    def new_items(self) -> Iterator[tuple[Link, Any]]:
        """Returns the messages or items that are new, or may be, with their links."""
        first = max(len(self.links) - len(self.items), self.leading)
        return zip(self.links[first:], self.items, strict=False)


def read_prompt(content: bytes, earlier: Iterable[Prompt] = ()) -> Prompt:
    """Reads a JSON body; `earlier` prompts are looked at in turn for one that it extends.

    Raises:
        ValueError: if the body is no JSON object, or has no chain.
    """
    prompt = _in_part(content, earlier) if len(content) > SHORT_BYTES else None
    return prompt or _whole(content)


def _in_part(content: bytes, earlier: Iterable[Prompt]) -> Prompt | None:
    view = memoryview(content)
    for known in earlier:
        end = known.end
        if (
            0 < end < len(content)
            and content[end] in b",]"
            and content[end - len(known.tail) : end] == known.tail
            and xxh3_128_digest(view[:end]) == known.fingerprint
            and (prompt := _continued(content, view, known)) is not None
        ):
            return prompt
    for name in _LISTS:
        if (prompt := _from_list(content, view, name)) is not None:
            return prompt
    return None


def _whole(content: bytes) -> Prompt:
    try:
        body = parse(content)
    except RecursionError:
        raise ValueError("the request body is nested too deeply") from None
    if not isinstance(body, dict):
        raise ValueError("the request body is not a JSON object")
    links = chain(body)
    items = body.get("messages") or body.get("input") or body.get("prompt")
    if not isinstance(items, list):
        items = [items]
    leading = max(len(links) - len(items), 0)
    return Prompt(links, leading, 0, items, _model(body))


def _continued(content: bytes, view: memoryview, known: Prompt) -> Prompt | None:
    parsed = _items_and_rest(content, known.end)
    if parsed is None:
        return None
    items, rest = parsed
    leading, model = known.leading, known.model
    if rest != known.rest:
        body = _without_list(content, known.start, rest, known.name)
        if body is None:
            return None
        head = chain({**body, known.name: []})
        if len(head) != leading or head[-1].digest != known.links[leading - 1].digest:
            return None
        model = _model(body)
    links = [*known.links, *chain_after(known.links[-1], {known.name: items})]
    prompt = Prompt(links, leading, len(known.links), items, model, known.name, known.start)
    if rest == known.rest:
        prompt.grown_from = known.links[-1].digest
    _remember(prompt, content, view, rest)
    return prompt


def _from_list(content: bytes, view: memoryview, name: str) -> Prompt | None:
    # The first place where these bytes stand is the member itself, unless it is one of an object within
    # another member, and then what precedes it is not complete. In a text its quotes would be escaped.
    opening = b'"%s":[' % name.encode()
    start = content.find(opening) + len(opening)
    if start < len(opening):
        return None
    parsed = _items_and_rest(content, start)
    if parsed is None:
        return None
    items, rest = parsed
    body = _without_list(content, start, rest, name)
    if body is None:
        return None
    head = chain({**body, name: []})
    links = [*head, *chain_after(head[-1], {name: items})]
    prompt = Prompt(links, len(head), 0, items, _model(body), name, start)
    _remember(prompt, content, view, rest)
    return prompt


def _items_and_rest(content: bytes, start: int) -> tuple[list[Any], str] | None:
    """Parses a list from within; returns its items and what follows them, from the bracket on."""
    try:
        text = "[" + content[start:].decode().removeprefix(",")
        items, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None  # parsed again as a whole, which says what is wrong
    return items, text[end - 1 :]


def _without_list(content: bytes, start: int, rest: str, name: str) -> dict[str, Any] | None:
    """Returns the members that surround the list; None if they are not what they seem."""
    before, after = content[: start - len(f'"{name}":[')].rstrip(), rest[1:].lstrip()
    if not before.endswith((b"{", b",")) or not after.startswith(("}", ",")):
        return None
    try:
        first = json.loads(before.removesuffix(b",") + b"}")
        last = json.loads("{" + after.removeprefix(","))
    except (ValueError, RecursionError):
        return None
    if not isinstance(first, dict) or not isinstance(last, dict) or name in first or name in last:
        return None
    return {**first, **last}


def _remember(prompt: Prompt, content: bytes, view: memoryview, rest: str) -> None:
    """Sets what a later body is recognised by, if it goes on from this one."""
    end = len(content) - (len(rest) if rest.isascii() else len(rest.encode()))
    prompt.end, prompt.rest = end, rest
    prompt.tail = content[max(0, end - _TAIL_BYTES) : end]
    prompt.fingerprint = xxh3_128_digest(view[:end])


def _model(body: dict[str, Any]) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None
