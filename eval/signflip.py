"""Exact sign-flip tests over seeds: one contrast, and many at once by max-T.

Under symmetry the two arms of a seed are exchangeable, so each seed's contrast may change its sign.  Rows are brought
into a canonical order and sign first: neither the order of seeds nor the swap of the arms can move a p by a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

EXACT = 16  # seeds up to which all 2^S sign vectors are enumerated
SAMPLE = 65_536  # sign vectors drawn beyond that, the identity among them
TIE = 1e-12  # statistics lie in [0, 1]; sums of at most thousands of terms differ by less when they are equal
BLOCK = 8_192


def smallest_p(n_seeds: int) -> float:
    """Smallest two-sided p that `n_seeds` seeds can give: 2 / 2^S, and 1 / 65,536 where vectors are sampled."""
    if n_seeds < 1:
        return 1.0
    return 2.0 / 2.0**n_seeds if n_seeds <= EXACT else 1.0 / SAMPLE


def can_reach(n_seeds: int, alpha: float) -> bool:
    """Whether any result of `n_seeds` seeds could be significant at `alpha`; divide alpha by the number of pairs."""
    return smallest_p(n_seeds) < alpha


def sign_flip(x: np.ndarray) -> np.ndarray:
    """Two-sided p of each column of x [S seeds, n contrasts], NaN for a missing seed; result [n], unadjusted.

    |mean| and |t| order the sign vectors alike, so the p of the studentised statistic is the same.  All zero: p = 1.
    """
    columns = np.sort(scaled(np.abs(x)), axis=0)  # signs of one column are all that flipping changes
    unit = columns / _norm(columns, _counts(x))
    observed = np.abs(_unit_sums(x))
    counts = np.zeros(x.shape[1])
    total = 0
    for signs in sign_vectors(x.shape[0]):
        counts += (np.abs(signs @ unit) >= observed - TIE).sum(axis=0)
        total += len(signs)
    return _share(counts, total, x.shape[0])


def max_t(x: np.ndarray) -> np.ndarray:
    """Family-wise adjusted p of each column of x [S seeds, n contrasts], NaN for a missing seed; result [n].

    Single-step max-T of Westfall and Young (1993) with the studentised mean: one sign vector flips every contrast of
    a seed together, so that their correlation is kept.  Columns of fewer than two seeds get 1 and do not take part.
    """
    adjusted = np.ones(x.shape[1])
    counted = _counts(x)
    used = np.flatnonzero(counted >= 2)
    if not len(used):
        return adjusted
    n = counted[used]
    rows = canonical(scaled(x[:, used]))
    unit = rows / _norm(rows, n)
    observed = np.abs(_unit_sums(x[:, used]))
    sizes = np.unique(n)
    thresholds = [np.array([_same_t(r, own, size) for r, own in zip(observed, n, strict=True)]) for size in sizes]
    counts = np.zeros(len(used))
    total = 0
    for signs in sign_vectors(x.shape[0]):
        statistic = np.abs(signs @ unit)
        hit = np.zeros((len(signs), len(used)), dtype=bool)
        for size, threshold in zip(sizes, thresholds, strict=True):
            hit |= statistic[:, n == size].max(axis=1)[:, None] >= threshold[None, :] - TIE
        counts += hit.sum(axis=0)
        total += len(signs)
    adjusted[used] = _share(counts, total, x.shape[0])
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> np.ndarray:
    """P values adjusted for the false discovery rate (Benjamini and Hochberg 1995), in the order given."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    ranked = values[order] * len(values) / np.arange(1, len(values) + 1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return adjusted


def sign_vectors(n_seeds: int) -> Iterator[np.ndarray]:
    """Blocks [b, S] of sign vectors up to their common sign (the tests are two-sided); drawn ones lack the identity."""
    if n_seeds <= EXACT:
        half = 2 ** (n_seeds - 1) if n_seeds else 0
        bits = np.arange(n_seeds)
        for start in range(0, half, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, half))
            yield 1.0 - 2.0 * ((numbers[:, None] >> bits) & 1)
    else:
        drawn = np.random.default_rng(0).integers(0, 2, size=(SAMPLE - 1, n_seeds), dtype=np.int8)
        for start in range(0, SAMPLE - 1, BLOCK):
            yield 1.0 - 2.0 * drawn[start : start + BLOCK]


def _share(counts: np.ndarray, total: int, n_seeds: int) -> np.ndarray:
    if total == 0:
        return np.ones_like(counts)
    return counts / total if n_seeds <= EXACT else (counts + 1) / (total + 1)  # + 1: the identity


def _counts(x: np.ndarray) -> np.ndarray:
    return np.isfinite(x).sum(axis=0)


def scaled(x: np.ndarray) -> np.ndarray:
    """Missing seeds as 0, each column divided by its largest magnitude, lest squares underflow or overflow."""
    z = np.where(np.isfinite(x), x, 0.0)
    largest = np.abs(z).max(axis=0, initial=0.0)
    return z / np.where(largest > 0, largest, 1.0)


def _norm(z: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Square root of n sum(z^2): what a sum can at most be, so |sum| / norm lies in [0, 1]."""
    norm = np.sqrt(n * (z * z).sum(axis=0))
    return np.where(norm > 0, norm, 1.0)


def _unit_sums(x: np.ndarray) -> np.ndarray:
    z = scaled(x)
    ordered = np.take_along_axis(z, np.argsort(np.abs(z), axis=0, kind="stable"), axis=0)
    return ordered.sum(axis=0) / _norm(ordered, _counts(x))


def canonical(x: np.ndarray) -> np.ndarray:
    """Rows with their first non-zero entry positive, in lexicographic order."""
    rows = []
    for row in x.tolist():
        first = next((v for v in row if v != 0), 1.0)
        rows.append([v + 0.0 for v in row] if first > 0 else [0.0 - v for v in row])
    return np.array(sorted(rows)).reshape(x.shape)


def _same_t(r: float, n: int, other: int) -> float:
    """The |sum| / norm at which `other` seeds have the |t| that `n` seeds have at r: t^2 = (n - 1) r^2 / (1 - r^2)."""
    if n == other or r >= 1 - TIE:
        return min(r, 1.0)
    t2 = (n - 1) * r * r / (1 - r * r)
    return float(np.sqrt(t2 / (other - 1 + t2)))
