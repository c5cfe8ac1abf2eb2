"""The cast test: is one character an outlier among many that were each favoured in turn?

D[k, s] is what training did for character k in its own arm less what it did for each other character in that one's
arm, as in delta, averaged over the others.  Under exchangeability of the characters the label "first arm" could sit on
any of them; all N = K + 1 places of that one label are tried, so that p is exact and cannot be below 1 / N.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, isnan, nan, sqrt

import numpy as np

from eval.contrasts import ROUNDING

TIE = 1e-12  # studentised deviations lie in [0, sqrt(N)]; equal ones differ by less after sums of a few hundred terms
HALF = 0.5  # share of items, of other characters, of seeds below which what is left would be a selection


@dataclass(frozen=True)
class Permuted:
    """Every label's p, as if each of the N characters were the first arm.

    `single` and `adjusted` [N, R rows]: unadjusted, and max-T over the rows (Westfall and Young 1993), where one
    permutation moves the label in all rows together; `any_row` [N]: the smallest adjusted p of each character.
    """

    single: np.ndarray
    adjusted: np.ndarray

    @property
    def any_row(self) -> np.ndarray:
        """[N]: whether it is special in any row, as a p."""
        return self.adjusted.min(axis=1, initial=1.0)


def smallest_p(n: int) -> float:
    """Smallest p that one label among `n` characters can have."""
    return 1.0 / max(n, 1)


def reaches(p: float | None, alpha: float) -> bool:
    """Whether p <= alpha: 19 controls give .05 exactly, and an exact test may use it (1 / 20 is not below .05)."""
    return p is not None and p <= alpha * (1 + TIE)


def differences(at: np.ndarray) -> np.ndarray:
    """Mean over items of (k read beside j) - (j read beside k): at [N, N, I], result [N, N], antisymmetric to the bit.

    An item counts for a pair where both have it.  NaN where a pair shares fewer than half of the items that anyone
    has.
    """
    n = len(at)
    result = np.full((n, n), np.nan)
    least = max(1.0, HALF * int(np.isfinite(at).any(axis=(0, 1)).sum()))
    for k in range(n):
        mine, theirs = at[k, k + 1 :], at[k + 1 :, k]
        gaps = mine - theirs
        gaps = np.where(np.abs(gaps) <= ROUNDING * np.maximum(np.abs(mine), np.abs(theirs)), 0.0, gaps)
        found = mean(gaps, least)
        result[k, k + 1 :], result[k + 1 :, k] = found, -found
    return result


def mean(x: np.ndarray, least: float = 1.0) -> np.ndarray:
    """Mean over the last axis of x [M, I] without its NaN, result [M]; NaN where fewer than `least` remain.

    Exactly rounded, so that no order of characters, seeds or items leaves a trace.
    """
    rows, n, least = x.tolist(), x.shape[-1], max(least, 1.0)
    if n >= least and np.isfinite(x).all():
        return np.array([fsum(row) / n for row in rows])
    rows = [[v for v in row if not isnan(v)] for row in rows]
    return np.array([fsum(row) / len(row) if len(row) >= least else nan for row in rows])


def by_seed(gaps: np.ndarray, present: np.ndarray) -> np.ndarray:
    """D [N, S] from gaps [N, N, S], the differences of every pair of characters.

    `present` [N, S]: runs that were measured.  NaN where a run can be compared with fewer than half of the other runs
    of its seed.
    """
    n, seeds = present.shape
    result = np.full((n, seeds), np.nan)
    for s in range(seeds):
        others = int(present[:, s].sum()) - 1
        if others >= 1:
            result[:, s] = mean(gaps[:, :, s] + np.where(np.eye(n), np.nan, 0.0), max(1.0, HALF * others))
    return result


def characters(d: np.ndarray) -> np.ndarray:
    """Mean over seeds [N] of d [N, S]; NaN where a character has fewer than half of the seeds that anyone has."""
    return mean(d, max(1.0, HALF * int(np.isfinite(d).any(axis=0).sum())))


def studentised(d: np.ndarray) -> np.ndarray:
    """(d - mean) / sd over the characters d [N, ...], along the first axis; 0 where all are equal.

    Of one size N it orders the characters as the deletion residual does, whose sd is that of the others.
    """
    n = len(d)
    flat = d.reshape(n, -1)
    result = np.zeros_like(flat)
    for row, column in enumerate(flat.T):
        away = column - fsum(column.tolist()) / n
        away = np.where(np.abs(away) <= ROUNDING * np.abs(column).max(initial=0.0), 0.0, away)
        largest = np.abs(away).max(initial=0.0)
        if largest > 0 and n > 1:
            scaled = away / largest  # lest squares underflow
            result[:, row] = scaled / sqrt(fsum((scaled * scaled).tolist()) / (n - 1))
    return result.reshape(d.shape)


def deleted(d: np.ndarray, k: int) -> tuple[float, float]:
    """(t, sd): the deviation of character k from the mean of the others in their own sd, d [N].

    t = (d_k - mean) / (sd sqrt(1 + 1 / K)) has K - 1 degrees of freedom if characters vary normally, K = N - 1.
    """
    others = np.delete(d, k)
    if len(others) < 2:
        return nan, nan
    middle = fsum(others.tolist()) / len(others)
    sd = sqrt(fsum(((others - middle) ** 2).tolist()) / (len(others) - 1))
    away = d[k] - middle
    if abs(away) <= ROUNDING * float(np.abs(d).max()):
        return 0.0, sd
    return (away / (sd * sqrt(1 + 1 / len(others))) if sd > 0 else nan), sd


def permute(d: np.ndarray) -> Permuted:
    """Exact permutation of one label over the characters: d [N, R rows], complete."""
    size = np.abs(studentised(d))
    n, rows = size.shape
    if rows == 0:
        return Permuted(np.ones((n, 0)), np.ones((n, 0)))
    largest = size.max(axis=1)
    single = (size[None] >= size[:, None] - TIE).mean(axis=1)
    adjusted = (largest[None, :, None] >= size[:, None] - TIE).mean(axis=1)
    return Permuted(single, adjusted)


def left_out(p: np.ndarray, first: int, alpha: float) -> tuple[int, int]:
    """(found, of): how many controls would be called special if each were the first arm, from any_row p [N]."""
    controls = np.delete(p, first)
    return sum(reaches(float(one), alpha) for one in controls), len(controls)


def left_out_by_t(d: np.ndarray, first: int, alpha: float) -> tuple[int, int]:
    """(found, of) over controls x rows by the deletion residual's t: each control beside the other controls alone.

    The exact test must find at most alpha N of N, whatever the data; this share can be larger, where a few characters
    lie far out and "standard deviations of the characters" promises more than it holds.
    """
    from scipy.special import stdtr

    controls = np.delete(d, first, axis=0)
    found = of = 0
    for column in controls.T:
        for k in range(len(column)):
            t, _ = deleted(column, k)
            if not isnan(t) and len(column) > 3:
                of += 1
                found += bool(2 * stdtr(len(column) - 2, -abs(t)) <= alpha)
    return found, of
