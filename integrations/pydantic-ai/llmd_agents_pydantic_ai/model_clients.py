"""The HTTP clients below a model, on which hints travel."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.wrapper import WrapperModel

from llmd_agents.client import instrument

if TYPE_CHECKING:
    from pydantic_ai.models import Model


def instrument_model(model: Model) -> None:
    """Lets the calls of a model carry hints, if it makes them with openai's client. Others are left alone.

    Done before each call, for the framework may have given the client another HTTP client since the last.
    """
    openai = sys.modules.get("openai")  # whoever has such a client has loaded it
    client = getattr(model, "client", None)
    if openai is not None and isinstance(client, openai.AsyncOpenAI):
        instrument(client)
    elif isinstance(model, WrapperModel):
        instrument_model(model.wrapped)
    elif isinstance(model, FallbackModel):
        for one in model.models:
            instrument_model(one)
