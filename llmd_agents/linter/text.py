"""How far two texts are alike."""

from __future__ import annotations


def common_prefix(one: str, other: str) -> int:
    """Returns how many characters two texts have in common at their start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def common_suffix(one: str, other: str, most: int) -> int:
    """Returns how many characters, at most `most`, two texts have in common at their end."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]:
            low = middle
        else:
            high = middle - 1
    return low


def similar(one: str, other: str) -> bool:
    """Returns whether one text is plainly the other with something changed in one place.

    That is, whether their common start and end make up at least half of the shorter one.
    """
    shorter = min(len(one), len(other))
    start = common_prefix(one, other)
    return 0 < shorter <= 2 * (start + common_suffix(one, other, shorter - start))
