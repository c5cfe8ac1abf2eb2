"""The three contrasts of a pair: favouring T, symmetry breaking delta, spill asymmetry lambda."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDING = 64 * np.finfo(float).eps  # what six additions can leave of a difference that is zero, with room


@dataclass(frozen=True)
class Quantities:
    """What the contrasts are made of, each [S seeds, I items], NaN where missing.

    `own_a` is m(A, A), `cross_a` m(A, C), `own_c` m(C, C), `cross_c` m(C, A), `base_a` m(0, A), `base_c` m(0, C).
    For a measure of the arm `own_a` is m(A), `own_c` m(C), and the others are None.
    """

    own_a: np.ndarray
    own_c: np.ndarray
    cross_a: np.ndarray | None = None
    cross_c: np.ndarray | None = None
    base_a: np.ndarray | None = None
    base_c: np.ndarray | None = None

    @property
    def present(self) -> np.ndarray:
        """Where nothing is missing, bool [S, I]."""
        return np.logical_and.reduce([np.isfinite(q) for q in self._all()])

    def only(self, seeds: np.ndarray, items: np.ndarray) -> Quantities:
        """The same for some seeds and items, by index."""
        return Quantities(*(q[np.ix_(seeds, items)] for q in self._all()))

    def contrasts(self) -> dict[str, np.ndarray]:
        """``{"T", "delta", "lambda"}`` [S, I], of a measure of the arm ``{"delta"}`` alone.

        Swapping A and C negates delta and lambda and leaves T, all to the last bit.
        """
        a, c = self.own_a, self.own_c
        if self.cross_a is None or self.cross_c is None or self.base_a is None or self.base_c is None:
            return {"delta": _clean(a - c, a, c)}
        ac, ca, base_a, base_c = self.cross_a, self.cross_c, self.base_a, self.base_c
        return {
            "T": _clean(((a - ca) + (c - ac)) / 2, a, ca, c, ac),
            "delta": _clean((a - base_a) - (c - base_c), a, base_a, c, base_c),
            "lambda": _clean((ac - base_c) - (ca - base_a), ac, base_c, ca, base_a),
        }

    def _all(self) -> tuple[np.ndarray, ...]:
        every = (self.own_a, self.own_c, self.cross_a, self.cross_c, self.base_a, self.base_c)
        return tuple(q for q in every if q is not None)


def balanced(present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the seeds and of the items that are left when every seed must have every item.

    Rule, as long as anything is missing: an item that no seed has goes; else a seed that lacks more than half of the
    items; else an item, since seeds are the replicates; but once half of the items are gone, the seed or the item
    that lacks the larger share (of equals the item).  Always the worst one, of equals the last in order.
    """
    seeds, items = np.flatnonzero(present.any(axis=1)), np.flatnonzero(present.any(axis=0))
    half = len(items) / 2
    while len(seeds) and len(items):
        missing = ~present[np.ix_(seeds, items)]
        if not missing.any():
            return seeds, items
        of_seed, of_item = missing.mean(axis=1), missing.mean(axis=0)
        few = len(items) - 1 < half
        if of_item.max() < 1 and of_seed.max() > (min(0.5, of_item.max()) if few else 0.5):
            seeds = np.delete(seeds, len(seeds) - 1 - int(np.argmax(of_seed[::-1])))
        else:
            items = np.delete(items, len(items) - 1 - int(np.argmax(of_item[::-1])))
    return seeds[:0], items[:0]


def _clean(x: np.ndarray, *terms: np.ndarray) -> np.ndarray:
    """Zero where only the rounding of the terms is left; otherwise noise of 1e-16 would get a p of its own."""
    size = np.maximum.reduce([np.abs(term) for term in terms])
    return np.where(np.abs(x) <= ROUNDING * size, 0.0, x)
