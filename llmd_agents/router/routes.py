"""The routes by which engines are asked to generate: those that hints, chains and usage belong to."""

from typing import Final

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETIONS_PATH: Final = "/v1/completions"
RESPONSES_PATH: Final = "/v1/responses"

GENERATING: Final = frozenset((CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH))

_NO_IDS: Final = frozenset(("compact", "input_tokens"))
"""Routes below `/v1/responses/` that name no response."""


def response_named(path: str) -> str | None:
    """Returns the id of the stored response that a path is about."""
    if not path.startswith(RESPONSES_PATH + "/"):
        return None
    named = path.removeprefix(RESPONSES_PATH + "/").partition("/")[0]
    return named if named and named not in _NO_IDS else None
