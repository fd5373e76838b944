"""Tenancy: decided by the API key that the router itself checks, never by a hint."""

import hashlib
import hmac

from llmd_agents.runtime import DEFAULT_TENANT

from .config import TenantConfig


class Tenants:
    """Maps an `Authorization` header to a tenant. Without configured tenants all calls share one.

    Args:
        operator_keys: keys that belong to no tenant but may change the router's mode.

    Attributes:
        salts: each tenant's cache salt, which keeps its blocks apart in the engines; None for the only one.
            It is derived from the tenant's keys, so that no other tenant can make it.
    """

    def __init__(self, tenants: tuple[TenantConfig, ...], operator_keys: tuple[str, ...] = ()) -> None:
        self._operators = frozenset(map(_digest, operator_keys))
        self._by_key = {_digest(key): tenant.name for tenant in tenants for key in tenant.api_keys}
        self.salts: dict[str, str | None] = {DEFAULT_TENANT: None}
        if tenants:
            self.salts = {tenant.name: _salt(tenant) for tenant in tenants}

    @property
    def told_apart(self) -> bool:
        return bool(self._by_key)

    def of(self, authorization: bytes | None) -> str | None:
        """Returns the tenant of a request; None if its key belongs to none."""
        return self._by_key.get(_bearer(authorization)) if self._by_key else DEFAULT_TENANT

    def may_operate(self, authorization: bytes | None) -> bool:
        """Returns whether a request may change what hints do to every tenant's calls."""
        if not self._operators:
            return not self.told_apart
        return _bearer(authorization) in self._operators


def _bearer(authorization: bytes | None) -> bytes:
    """Returns the digest of the key, or what is none."""
    scheme, _, key = (authorization or b"").decode("latin-1").partition(" ")
    return _digest(key.strip()) if scheme.lower() == "bearer" else b""


def _salt(tenant: TenantConfig) -> str:
    secret = hashlib.sha256(b"".join(sorted(map(_digest, tenant.api_keys)))).digest()
    return hmac.new(secret, tenant.name.encode(), hashlib.sha256).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
