"""Which versions of a framework an adapter has been tested with."""

import sys
import warnings
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


@lru_cache(maxsize=64)
def is_supported(package: str, versions: str, *, adapter: str) -> bool:
    """Returns whether the installed version of a package is one of those; warns once if it is not.

    An adapter that finds another version gives no hints, rather than wrong ones.

    Args:
        package: as pip knows it.
        versions: a version specifier (PEP 440) such as ">=1.0,<2".
        adapter: what gives no hints, for the warning.
    """
    from packaging.specifiers import SpecifierSet

    try:
        found = version(package)
    except PackageNotFoundError:
        found = "no version"
    else:
        if SpecifierSet(versions).contains(found, prereleases=True):
            return True
    warnings.warn(
        f"{adapter} is tested with {package} {versions}, and {found} is installed: it gives no hints",
        stacklevel=_of_the_application(),
    )
    return False


def _of_the_application() -> int:
    """Returns the `stacklevel` at which a warning of its caller names the application's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("llmd_agents"):
        level, frame = level + 1, frame.f_back
    return level
