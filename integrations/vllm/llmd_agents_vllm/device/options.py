"""The options of `AgentConnector`: `kv_connector_extra_config` of its entry in `--kv-transfer-config`."""

from typing import Annotated, ClassVar

from pydantic import Field

from ..options import Share, StrictOptions

Cost = Annotated[float, Field(gt=0, lt=1)]


class Options(StrictOptions):
    """Everything that can be set."""

    where: ClassVar[str] = "AgentConnector"

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
