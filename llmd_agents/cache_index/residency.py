"""What the engine tells of residency: which chain digests each tier holds whole.

A digest is resident on the device while all full blocks before its end are cached there; in a lower tier
while each of them is there or in a tier before it, so that the context can be served from there without
computing any of it. A digest that ends within the first block is never reported.

One digest may stand for several runs of blocks; it is resident in a scope while one run of that scope is.
"""

from llmd_agents.hints import ResidencyChange, Tier


class Residency:
    """Counts the runs of each digest in each tier; every change is returned once, by `take_changes`.

    Args:
        tiers: the device, then the lower tiers that there are.
    """

    def __init__(self, tiers: tuple[Tier, ...] = (Tier.DEVICE,)) -> None:
        self.tiers = tiers
        self._runs: dict[tuple[bytes, str | None, int], tuple[int, int]] = {}
        self._changes: list[ResidencyChange] = []

    def came(self, digest: bytes, scope: str | None, tokens: int, level: int) -> None:
        """Notes that a run of this digest can be served from a tier, counted from the device."""
        key = (digest, scope, level)
        runs, known = self._runs.get(key, (0, tokens))
        self._runs[key] = (runs + 1, known)
        if not runs:
            self._note(digest, scope, tokens, level, resident=True)

    def went(self, digest: bytes, scope: str | None, tokens: int, level: int) -> None:
        """Notes that a run of this digest can no longer be served from a tier."""
        key = (digest, scope, level)
        runs, known = self._runs.pop(key)
        if runs > 1:
            self._runs[key] = (runs - 1, known)
        else:
            self._note(digest, scope, tokens, level, resident=False)

    def clear(self) -> None:
        """Forgets everything, changes not taken included: the cache was reset."""
        self._runs.clear()
        self._changes.clear()

    def take_changes(self) -> tuple[ResidencyChange, ...]:
        """Returns the changes since the last call, in order."""
        if not self._changes:
            return ()
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    def snapshot(self) -> tuple[ResidencyChange, ...]:
        """Returns everything that is resident, each digest once for each tier."""
        return tuple(
            ResidencyChange(
                digest=digest, scope=scope, tier=self.tiers[level].value, tokens=tokens, resident=True
            )
            for (digest, scope, level), (_, tokens) in self._runs.items()
        )

    def _note(self, digest: bytes, scope: str | None, tokens: int, level: int, *, resident: bool) -> None:
        self._changes.append(
            ResidencyChange(
                digest=digest, scope=scope, tier=self.tiers[level].value, tokens=tokens, resident=resident
            )
        )
