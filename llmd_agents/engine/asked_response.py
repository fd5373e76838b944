"""Reads the body of a Responses call."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmd_agents.hints import UnreadableContext, chain, lineage_digest, residency_scope
from llmd_agents.hints.context_items import PREVIOUS, response_items_of

from .completion import Completion
from .planned_reply import plan_reply
from .profile import EngineProfile
from .request_body import RefusedRequest, flag, length_of, model_of, not_modelled, parse, salt_of
from .said import calls_as_items
from .script import Script, reply_to
from .stored_responses import StoredResponse, StoredResponses
from .tokenizer import BYTES_PER_TOKEN, END, PAD, ROLES, Prompt, render_item, render_tools

_AFTER_LINEAGE = 2
"""Tokens of an earlier reply that its lineage leaves out: the last, which was never computed, and the end."""


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """A checked Responses call.

    Attributes:
        body: as it came.
        said: what was said before the reply, rendered, without tools and instructions.
        turns: replies in that.
        store: whether it is to be stored.
    """

    completion: Completion
    body: Mapping[str, Any]
    said: bytes
    turns: int
    store: bool

    def lineage(self, response_id: str) -> bytes | None:
        """Returns the digest by which the next call names this one's context; None if it cannot."""
        return lineage_digest(self.body, response_id) if self.store else None

    def stored(self, response_id: str, body: bytes) -> StoredResponse:
        """Returns what is stored of it, once it has been answered with `body`."""
        reply = self.completion.output
        context = self.said + ROLES["assistant"] + reply + PAD * (-len(reply) % BYTES_PER_TOKEN) + END
        return StoredResponse(response_id, body, context, self.turns + 1, self.completion.scope)


def read_response(
    data: bytes,
    profile: EngineProfile,
    model_names: tuple[str, ...],
    stored: StoredResponses,
    script: Script | None = None,
) -> AskedResponse:
    """Reads the body of a Responses call.

    Args:
        stored: the responses that it may continue; else as for `read_completion`.

    Raises:
        RefusedRequest: if the engine cannot serve it.
    """
    body = parse(data)
    model = model_of(body, model_names)
    if body.get("input") in (None, []):
        raise RefusedRequest("input must be a text or a non-empty array of items", param="input")
    not_modelled(body, background=False, conversation=None, prompt=None, top_logprobs=0)
    # A body that is of several kinds would have another chain than its input.
    not_modelled(body, messages=None)
    salt = salt_of(body)
    store = body.get("store") is None or flag(body, "store")
    try:
        links = chain(body)
        prompt, said, turns = _render(body, stored, residency_scope(salt))
    except UnreadableContext as error:
        named = str(error).partition(" ")[0].partition("[")[0]
        raise RefusedRequest(str(error), param=named if named in body else "input") from error
    except RecursionError as error:
        raise RefusedRequest("an item is nested too deeply", param="input") from error
    reply = plan_reply(
        body,
        prompt,
        profile,
        where="input",
        asked=length_of(body, "max_output_tokens"),
        scripted=reply_to(script, turns) if script else None,
        render_calls=calls_as_items,
    )
    completion = Completion.of(body, model, salt, prompt, links, reply)
    return AskedResponse(completion, body, said, turns, store)


def _render(body: Mapping[str, Any], stored: StoredResponses, scope: str | None) -> tuple[Prompt, bytes, int]:
    """Returns the prompt, what of it was said before the reply, and how many replies are in that."""
    start = [render_tools(body)]
    said: list[bytes] = []
    at = len(start[0])
    ends = [at]
    turns, replying = 0, False
    items = iter(response_items_of(body))
    if body.get("instructions") is not None:
        start.append(render_item(*next(items)))
        at += len(start[1])
        ends.append(at)
    for role, item in items:
        if role == "previous" and "role" not in item:
            earlier = stored.get(item[PREVIOUS])
            if earlier is None or earlier.scope != scope:
                raise RefusedRequest(
                    f"Previous response with id '{item[PREVIOUS]}' not found.",
                    status=404,
                    param=PREVIOUS,
                    code="previous_response_not_found",
                )
            turns = earlier.turns
            said.append(earlier.context)
            at += len(earlier.context)
            ends.append(at - _AFTER_LINEAGE * BYTES_PER_TOKEN)
            continue
        if item.get("type") == "item_reference" or not item.keys() & {"role", "type"}:
            raise RefusedRequest("the embedded engine keeps no items to be referred to", param="input")
        said.append(render_item(role, item))
        at += len(said[-1])
        ends.append(at)
        if role != "reasoning":
            # A reply may consist of several items.
            turns += role == "assistant" and not replying
            replying = role == "assistant"
    context = b"".join(said)
    tokens = b"".join((*start, context, ROLES["assistant"]))
    return Prompt(tokens, tuple(end // BYTES_PER_TOKEN for end in ends)), context, turns
