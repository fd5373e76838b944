"""What an application calls once, before its first run."""

from agents import OpenAIProvider, add_trace_processor
from openai import AsyncOpenAI

from llmd_agents.client import attach, instrument

from .processor import ProgramProcessor
from .supported import sdk_is_supported


def install() -> None:
    """Lets every run of the SDK tell its structure; doing it twice changes nothing.

    Models on the SDK's own clients send hints from then on. A client that the application makes is given to
    `llmd_agents.instrument`, or to `model_provider`. Other trace processors go on as before. What replaces
    them all (`set_trace_processors`) is called before this.

    With a version of the SDK that it has not been tested with, it warns and does nothing.
    """
    if not sdk_is_supported():
        return
    # Other versions may not have it.
    from agents.models.openai_provider import shared_http_client

    attach(shared_http_client())
    add_trace_processor(ProgramProcessor())


def model_provider(client: AsyncOpenAI, *, use_responses: bool | None = None) -> OpenAIProvider:
    """Returns models that call a server through this client, with hints, for `RunConfig(model_provider=…)`.

    Args:
        use_responses: whether through the Responses API rather than chat completions; by default what the SDK
            is set to.

    Raises:
        TypeError: if it is no such client.
    """
    if sdk_is_supported():
        instrument(client)
    return OpenAIProvider(openai_client=client, use_responses=use_responses)
