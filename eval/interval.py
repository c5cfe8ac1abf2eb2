"""The interval of a mean over crossed seeds and items: method of moments with Satterthwaite degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, isfinite, nan, sqrt

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean, the variance of that mean, and its degrees of freedom (NaN where one seed leaves them unknown)."""

    mean: float
    variance: float
    df: float

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided t interval at `level`, e.g. .95; (NaN, NaN) where the variance is unknown."""
        half = critical(self.df, level) * sqrt(self.variance) if isfinite(self.variance) else nan
        return self.mean - half, self.mean + half


def critical(df: float, level: float) -> float:
    """Half width of a two-sided t interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.5 + level / 2))


def seed_means(x: np.ndarray) -> np.ndarray:
    """Mean over items of each seed, [S] from [S, I]; exactly rounded, so the order of items leaves no trace."""
    return np.array([fsum(row) / len(row) for row in x.tolist()])


def seed_sd(x: np.ndarray) -> float:
    """Standard deviation over seeds of their means over items, from x [S, I]; NaN for one seed."""
    return sqrt(crossed(seed_means(x)[:, None]).variance * x.shape[0]) if x.shape[0] > 1 else nan


def crossed(x: np.ndarray) -> Estimate:
    """Mean of x [S seeds, I items] with the variance it has when both seeds and items are sampled.

    Var = (MS_seed + MS_item - MS_residual) / (S I), Satterthwaite (1946) degrees of freedom, never below
    min(S, I) - 1; where that sum is not positive, the larger of MS_seed and MS_item with its own degrees of freedom.
    One item: the t interval over seeds.  All sums are exactly rounded (fsum), so that the order of seeds and items
    changes no bit.
    """
    seeds, items = x.shape
    if seeds == 0 or items == 0:
        return Estimate(nan, nan, nan)
    grand = fsum(x.ravel().tolist()) / x.size
    if seeds == 1:
        return Estimate(grand, nan, nan)
    by_seed = seed_means(x)
    ms_seed = items * _squares(by_seed - grand) / (seeds - 1)
    if items == 1:
        return Estimate(grand, ms_seed / seeds, seeds - 1)
    by_item = seed_means(x.T)
    ms_item = seeds * _squares(by_item - grand) / (items - 1)
    # one rounded subtraction at a time, the same for every cell, whatever the memory layout
    residual = (x - by_seed[:, None]) - (by_item - grand)[None, :]
    df_residual = (seeds - 1) * (items - 1)
    ms_residual = _squares(residual) / df_residual
    total = ms_seed + ms_item - ms_residual
    if total > 0:
        spread = ms_seed**2 / (seeds - 1) + ms_item**2 / (items - 1) + ms_residual**2 / df_residual
        df = total**2 / spread if spread > 0 else nan  # squares of tiny variances can underflow
    else:
        total, df = max((ms_seed, seeds - 1), (ms_item, items - 1))
    floor = min(seeds, items) - 1
    return Estimate(grand, total / (seeds * items), max(df, floor) if isfinite(df) else floor)


def _squares(x: np.ndarray) -> float:
    return fsum((x * x).ravel().tolist())
