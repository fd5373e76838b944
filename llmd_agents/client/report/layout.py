"""Places for the nodes of a drawn graph: columns by depth, rows by branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .view import View


@dataclass(frozen=True, slots=True)
class Layout:
    """Column and row of each node, by index."""

    places: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> int:
        return max((column for column, _ in self.places), default=-1) + 1

    @property
    def rows(self) -> int:
        return max((row for _, row in self.places), default=-1) + 1


def layout(drawn: View) -> Layout:
    """Puts each node right of all that it waits for, in the first row that its branch has to itself."""
    depth = [0] * len(drawn.nodes)
    for one, other in drawn.edges:  # sorted, and they only lead forward
        depth[other] = max(depth[other], depth[one] + 1)
    reach: dict[str, list[int]] = {}
    for index, node in enumerate(drawn.nodes):
        low, high = reach.get(node.branch, [depth[index], depth[index]])
        reach[node.branch] = [min(low, depth[index]), max(high, depth[index])]
    taken: list[list[tuple[int, int]]] = []
    row_of: dict[str, int] = {}
    for branch, (low, high) in reach.items():
        row = next(
            (
                at
                for at, spans in enumerate(taken)
                if all(high < left or right < low for left, right in spans)
            ),
            len(taken),
        )
        if row == len(taken):
            taken.append([])
        taken[row].append((low, high))
        row_of[branch] = row
    return Layout(_apart([(depth[index], row_of[node.branch]) for index, node in enumerate(drawn.nodes)]))


def _apart(places: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Moves nodes that share a place, as siblings on one branch do, to rows of their own."""
    used: set[tuple[int, int]] = set()
    found = []
    for column, row in places:
        while (column, row) in used:
            row += 1
        used.add((column, row))
        found.append((column, row))
    return tuple(found)
