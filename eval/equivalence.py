"""Equivalence by two one-sided tests, absolute or as a share of what training did, and the share itself."""

from __future__ import annotations

from math import isfinite, sqrt
from statistics import NormalDist

import numpy as np

from eval.interval import Estimate, critical, crossed, seed_means
from eval.probe import Margin


def bounds(delta: np.ndarray, favouring: np.ndarray | None, margin: Margin) -> tuple[Estimate, Estimate]:
    """Estimates of delta - margin and delta + margin, x [S, I].

    A relative margin is rho T item by item and seed by seed, so that both are contrasts like any other and no ratio
    is formed; `favouring` is T [S, I].
    """
    if margin.kind == "absolute":
        estimate = crossed(delta)
        return (
            Estimate(estimate.mean - margin.value, estimate.variance, estimate.df),
            Estimate(estimate.mean + margin.value, estimate.variance, estimate.df),
        )
    assert favouring is not None, "a relative margin needs T"
    return crossed(delta - margin.value * favouring), crossed(delta + margin.value * favouring)


def equivalent(below: Estimate, above: Estimate, alpha: float) -> bool:
    """Two one-sided tests at alpha (Schuirmann 1987): the 1 - 2 alpha intervals lie below and above 0."""
    return below.interval(1 - 2 * alpha)[1] < 0 < above.interval(1 - 2 * alpha)[0]


def beyond(below: Estimate, above: Estimate, alpha: float) -> bool:
    """Whether the whole 1 - alpha interval lies at or beyond the margin, on either side."""
    return below.interval(1 - alpha)[0] >= 0 or above.interval(1 - alpha)[1] <= 0


def share(delta: np.ndarray, favouring: np.ndarray, level: float) -> tuple[float, float, float] | None:
    """Delta / T with its interval (Fieller 1954), from x [S, I] each; None where T may be 0.

    The covariance comes from the same crossed variance (polarisation); degrees of freedom are those of delta.
    """
    d, t = crossed(delta), crossed(favouring)
    covariance = (crossed(delta + favouring).variance - crossed(delta - favouring).variance) / 4
    if not (isfinite(d.variance) and isfinite(t.variance)) or t.mean == 0:
        return None
    q = critical(d.df, level) ** 2
    square = t.mean**2 - q * t.variance
    middle = d.mean * t.mean - q * covariance
    inside = middle**2 - square * (d.mean**2 - q * d.variance)
    if square <= 0 or not inside >= 0:
        return None
    half = sqrt(inside)
    return d.mean / t.mean, (middle - half) / square, (middle + half) / square


def seeds_needed(delta: np.ndarray, margin: float, alpha: float) -> int | None:
    """Seeds that would show equivalence where there is no difference, about ((z_{1-alpha} + z_{.9}) sd / margin)^2.

    The z sum to 2.93 at alpha .05; sd is that of the seed means, x [S, I]; the power is .8.  What the items add to the
    variance, and more seeds would not take away, is taken off the squared margin first.  At least one more than there
    are, since those did not settle it.  None where seeds alone would not settle it, or one seed tells no variance.
    """
    n = delta.shape[0]
    if n < 2:
        return None
    z = NormalDist().inv_cdf(1 - alpha) + NormalDist().inv_cdf(0.9)
    of_seeds = crossed(seed_means(delta)[:, None]).variance * n
    of_items = max(crossed(delta).variance - of_seeds / n, 0.0)
    room = (margin / z) ** 2 - of_items
    return max(int(np.ceil(of_seeds / room)), n + 1) if room > 0 and of_seeds / room < 1e9 else None
