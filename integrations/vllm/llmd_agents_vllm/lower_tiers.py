"""The tiers below the device that other connectors of this engine keep, as the books see them."""

from collections.abc import Callable, Sequence

from llmd_agents.cache_index import Name
from llmd_agents.hints import Tier

from .directory_store.connector import SharedDirectoryConnector, store_of_process
from .offload.policy import AgentOffloadPolicy, policy_of_process


class HostTier:
    """What vLLM's offloading keeps under `AgentOffloadPolicy`."""

    tier = Tier.HOST

    def __init__(self, policy: AgentOffloadPolicy) -> None:
        self._policy = policy

    def holds(self, block_hash: bytes) -> bool:
        return self._policy.holds(block_hash)

    def watch(self, changed: Callable[[bytes], None]) -> None:
        self._policy.watch(lambda block_hash, _: changed(block_hash))

    def estimated(self, hashes: Sequence[bytes], name: Name) -> None:
        self._policy.estimated(hashes, name.estimate)

    def released(self, hashes: Sequence[bytes]) -> None:
        self._policy.released(hashes)


class StorageTier:
    """What is in a shared directory. It is everybody's, so that neither estimates nor deaths concern it; what
    others do there is seen when it is looked for.
    """

    tier = Tier.STORAGE

    def __init__(self, store: SharedDirectoryConnector) -> None:
        self._store = store

    def holds(self, block_hash: bytes) -> bool:
        return self._store.holds(block_hash)

    def watch(self, changed: Callable[[bytes], None]) -> None:
        pass

    def estimated(self, hashes: Sequence[bytes], name: Name) -> None:
        pass

    def released(self, hashes: Sequence[bytes]) -> None:
        pass


def lower_tiers() -> list[HostTier | StorageTier]:
    """Returns the tiers that this engine has, nearest first."""
    found: list[HostTier | StorageTier] = []
    if (policy := policy_of_process()) is not None:
        found.append(HostTier(policy))
    if (store := store_of_process()) is not None:
        found.append(StorageTier(store))
    return found
