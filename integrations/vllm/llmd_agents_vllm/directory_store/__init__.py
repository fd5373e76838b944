"""A storage connector for tests and single hosts: KV blocks in a directory that engines share.

Loaded on first use: `store` alone needs no vLLM.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connector import SharedDirectoryConnector, store_of_process

__all__ = ["SharedDirectoryConnector", "store_of_process"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import connector

    return getattr(connector, name)
