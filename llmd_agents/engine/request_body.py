"""What the engine reads alike in the bodies of all its routes."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"


class RefusedRequest(Exception):
    """The request is answered with an error; carries what the error says, in OpenAI's terms."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code


def parse(data: bytes) -> Mapping[str, Any]:
    """Returns the JSON object that a body is.

    Raises:
        RefusedRequest: if it is none.
    """
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            # The standard library also reads lone surrogates, which JSON may escape.
            body = json.loads(data, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise RefusedRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedRequest("the body is not a JSON object")
    return body


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def model_of(body: Mapping[str, Any], model_names: tuple[str, ...]) -> str:
    """Returns the model that is asked for: the first served where none is named."""
    model = body.get("model")
    if model is None:
        return model_names[0] if model_names else ""
    if not isinstance(model, str):
        raise RefusedRequest("model must be a string", param="model")
    if not model.isprintable():
        raise RefusedRequest("model must be printable text", param="model")
    if model_names and model not in model_names:
        raise RefusedRequest(
            f"The model `{model}` does not exist; served are {', '.join(model_names)}.",
            status=404,
            param="model",
            code="model_not_found",
        )
    return model


def salt_of(body: Mapping[str, Any]) -> str | None:
    salt = body.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise RefusedRequest("cache_salt must be a non-empty string", param="cache_salt")
    return salt


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise RefusedRequest(f"{name} must be a boolean", param=name)
    return bool(value)


def length_of(body: Mapping[str, Any], *names: str) -> int | None:
    """Returns the length that is asked for by the first of these members that is there."""
    for name in names:
        value = body.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RefusedRequest(f"{name} must be an integer of at least 1", param=name)
            return value
    return None


def not_modelled(body: Mapping[str, Any], **modelled: Any) -> None:
    """Refuses a body that asks for what the engine does not do.

    Args:
        modelled: the only value besides null that each of these members may have.
    """
    for name, value in modelled.items():
        given = body.get(name)
        if given is not None and (given != value or isinstance(given, bool) != isinstance(value, bool)):
            raise RefusedRequest(
                f"{name} must be {json.dumps(value)} or left out: the embedded engine models nothing else",
                param=name,
            )
