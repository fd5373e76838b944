"""Reading `PUT /v1/agent/mode`: what hints may do from now on."""

from pydantic import BaseModel, ConfigDict, ValidationError

from llmd_agents.hints.errors import first_problem
from llmd_agents.runtime import Mode

MODE_PATH = "/v1/agent/mode"


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Mode


def read_mode(body: bytes) -> Mode:
    """Returns the mode that a body asks for.

    Raises:
        ValueError: if it asks for none, or for anything else.
    """
    try:
        return _Wanted.model_validate_json(body).mode
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
