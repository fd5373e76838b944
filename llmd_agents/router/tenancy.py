"""Tenancy: decided by the API key that the router itself checks, never by a hint."""

import hashlib

from llmd_agents.runtime import DEFAULT_TENANT

from .config import TenantConfig


class Tenants:
    """Maps an `Authorization` header to a tenant. Without configured tenants all calls share one."""

    def __init__(self, tenants: tuple[TenantConfig, ...]) -> None:
        self._by_key = {_digest(key): tenant.name for tenant in tenants for key in tenant.api_keys}

    @property
    def sole(self) -> str | None:
        """The one tenant, where none are told apart."""
        return None if self._by_key else DEFAULT_TENANT

    def of(self, authorization: bytes | None) -> str | None:
        """Returns the tenant of a request; None if its key belongs to none."""
        if not self._by_key:
            return DEFAULT_TENANT
        scheme, _, key = (authorization or b"").decode("latin-1").partition(" ")
        return self._by_key.get(_digest(key.strip())) if scheme.lower() == "bearer" else None


def cache_salt(tenant: str) -> str:
    """Returns the salt that keeps a tenant's blocks apart in the engines."""
    return hashlib.sha256(b"llmd-agents tenant\n" + tenant.encode()).hexdigest()[:32]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
