"""The router's configuration: a YAML file, checked as a whole before anything starts."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llmd_agents.hints.fields import Id
from llmd_agents.runtime import Mode


class BadConfig(ValueError):
    """The configuration cannot be used; the message is one line that names the key and what is allowed."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineConfig(_Section):
    """One inference server."""

    url: str
    """Base URL without `/v1`, such as `http://10.0.0.5:8000`."""
    name: Id | None = None
    """How it is called in metrics and views; `engine-0`, `engine-1`, … by default."""
    api_key: str | None = None
    """Sent to it in place of the client's own key."""
    priority: Annotated[bool, Field(strict=True)] | Literal["auto"] = "auto"
    """Whether calls carry their program's priority; `auto`: once a warm-up with one was answered."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return url.rstrip("/").removesuffix("/v1")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: str | None) -> str | None:
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError("must be printable ASCII, without line ends")
        return key


class TenantConfig(_Section):
    """One tenant. As soon as there is one, every call needs a key of some tenant."""

    name: Id
    api_keys: Annotated[tuple[str, ...], Field(min_length=1)]


Placement: TypeAlias = Literal["load_and_affinity", "prefix_aware", "round_robin"]


class RouterConfig(_Section):
    """Everything that can be set. Times are in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes any free port."""
    engines: Annotated[tuple[EngineConfig, ...], Field(min_length=1)]
    tenants: tuple[TenantConfig, ...] = ()
    operator_api_keys: tuple[str, ...] = ()
    """Who may change the mode. Without any: everyone where no tenants are told apart, else nobody."""
    mode: Mode = Mode.ACT
    """Whether hints are acted on, only observed, or not even read; can be changed while the router runs."""
    placement: Placement = "load_and_affinity"
    record: Path | None = None
    """File to which inputs and decisions are added as JSON lines: digests, sizes and times, no contents."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 64 * 1024 * 1024
    connect_timeout_s: Annotated[float, Field(gt=0)] = 2.0
    answer_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long an engine may take until the first byte of a stream, or the end of any other answer."""
    health_interval_s: Annotated[float, Field(gt=0)] = 1.0
    load_interval_s: Annotated[float, Field(gt=0)] = 1.0
    """How often an engine's `/metrics` are read for its load."""
    shutdown_timeout_s: Annotated[int, Field(ge=0)] = 30
    """How long calls under way may go on after the router was told to stop."""

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_a_word(cls, mode: Any) -> Any:
        # YAML reads a bare `off` as false.
        return "off" if mode is False else mode

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for what, values in (
            ("engines: url", [engine.url for engine in self.engines]),
            ("engines: name", list(self.named_engines())),
            ("tenants: name", [tenant.name for tenant in self.tenants]),
            ("tenants: api_keys", [key for tenant in self.tenants for key in tenant.api_keys]),
            (
                "operator_api_keys and the tenants' api_keys",
                [*self.operator_api_keys, *(key for tenant in self.tenants for key in tenant.api_keys)],
            ),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{what} must differ from one another")
        return self

    def named_engines(self) -> dict[str, EngineConfig]:
        return {engine.name or f"engine-{index}": engine for index, engine in enumerate(self.engines)}


def load_config(path: Path | None, overrides: dict[str, Any]) -> RouterConfig:
    """Reads a configuration file, if one is given; `overrides` (from the command line) win over it.

    Raises:
        BadConfig: if the file cannot be read, is no YAML mapping, or a key or value is not allowed.
    """
    values: Any = {}
    where = "command line"
    if path is not None:
        where = str(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadConfig(f"{where}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadConfig(f"{where}: not YAML: {' '.join(str(error).split())}") from None
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise BadConfig(f"{where}: must be a mapping of {_allowed(RouterConfig)}")
    try:
        return RouterConfig.model_validate(values | overrides)
    except ValidationError as error:
        raise BadConfig(f"{where}: {_one_line(error)}") from None


_SECRETS = frozenset(("api_key", "api_keys", "operator_api_keys"))


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        sections: dict[object, type[BaseModel]] = {"engines": EngineConfig, "tenants": TenantConfig}
        section = sections.get(location[0], RouterConfig) if len(location) > 1 else RouterConfig
        return f"{key}: unknown key; allowed are {_allowed(section)}"
    if first["type"] == "missing":
        return f"{key}: is required"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {_shown(location, first['input'])})" if key else message


def _shown(location: tuple[int | str, ...], value: Any) -> str:
    return "a secret" if _SECRETS.intersection(location) else repr(value)


def _allowed(section: type[BaseModel]) -> str:
    return ", ".join(section.model_fields)
