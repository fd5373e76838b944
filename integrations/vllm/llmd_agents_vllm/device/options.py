"""The options of `AgentConnector`: `kv_connector_extra_config` of its entry in `--kv-transfer-config`."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Cost = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class BadOption(ValueError):
    """An option is unknown or has a value that is not allowed; says which, in one line."""


class Options(BaseModel):
    """Everything that can be set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retention_budget: Share = 0.9
    """Share of the device's blocks that estimates may keep beyond least-recently-used order."""
    retention_budget_per_tenant: Share = 0.9
    """The same for each tenant alone (each cache salt, and all requests without one)."""
    host_s_per_token: Cost | None = None
    """What loading a token from the host tier takes, in seconds: it tells the router when a prefetch is
    worth it. Unset: a tenth of what computing it takes."""
    storage_s_per_token: Cost | None = None
    """The same for the storage tier."""
    prefill_s_per_token: Cost | None = None
    """What computing a token of a prompt takes, in seconds: with the two below it tells the router when a
    fork should spread. Unset, each is learned from how long the engine's steps take."""
    step_s: Cost | None = None
    """What one decoding step takes, in seconds, whatever is in it."""
    decode_s_per_seq: Cost | None = None
    """What each sequence adds to it."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Checks the options.

        Raises:
            BadOption: for the first that is wrong.
        """
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                allowed = ", ".join(cls.model_fields)
                raise BadOption(f"AgentConnector: unknown option {name}; allowed are {allowed}") from None
            raise BadOption(f"AgentConnector: {name}: {first['msg']} (got {first['input']!r})") from None
