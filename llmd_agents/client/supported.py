"""Which versions of a framework an adapter has been tested with."""

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
        stacklevel=3,
    )
    return False
