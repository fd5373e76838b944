"""Reads the body of a completion: a raw prompt, without messages."""

from llmd_agents.hints import UnreadableContext, chain
from llmd_agents.hints.context_items import PIECE_BYTES, raw_prompt

from .completion import Completion
from .planned_reply import plan_reply
from .profile import EngineProfile
from .request_body import RefusedRequest, length_of, model_of, not_modelled, parse, salt_of
from .script import Script, reply_to
from .tokenizer import render_raw

DEFAULT_MAX_TOKENS = 16
"""Of completions, as OpenAI and vLLM have it."""


def read_text_completion(
    data: bytes, profile: EngineProfile, model_names: tuple[str, ...], script: Script | None = None
) -> Completion:
    """Reads the body of a completion; arguments and errors as for `read_completion`."""
    body = parse(data)
    model = model_of(body, model_names)
    if body.get("prompt") in (None, "", []):
        raise RefusedRequest("prompt must be a text or an array of tokens, and not empty", param="prompt")
    not_modelled(body, n=1, best_of=1, echo=False, logprobs=None, suffix=None)
    # A body that is of several kinds would have another chain than its prompt.
    not_modelled(body, messages=None, input=None, instructions=None, previous_response_id=None)
    salt = salt_of(body)
    try:
        _, prompt_bytes = raw_prompt(body)
        links = chain(body)
    except UnreadableContext as error:
        param = "tools" if str(error).startswith("tools") else "prompt"
        raise RefusedRequest(str(error), param=param) from error
    prompt = render_raw(prompt_bytes, PIECE_BYTES)
    reply = plan_reply(
        {**body, "tools": None},
        prompt,
        profile,
        where="prompt",
        asked=length_of(body, "max_tokens") or DEFAULT_MAX_TOKENS,
        scripted=reply_to(script, 0) if script else None,
    )
    return Completion.of(body, model, salt, prompt, links, reply)
