"""Scales of the measures: log-odds inside a choice set, and corrections of them.  Pure, natural logarithms."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def logsumexp(values: Sequence[float]) -> float:
    """log of the sum of exponentials; minus infinity for nothing."""
    top = max(values, default=-math.inf)
    if not math.isfinite(top):
        return top
    return top + math.log(sum(math.exp(v - top) for v in values))


def log_odds(scores: Sequence[float], index: int, without: Collection[int] = ()) -> float:
    """Logit of option `index` inside the choice set: its score against the logsumexp of all the others.

    `scores` are log-probabilities up to a common constant; options in `without` are left out of the set.
    Raises ValueError when nothing is left to compare with.
    """
    rest = [s for k, s in enumerate(scores) if k != index and k not in without]
    if not rest:
        raise ValueError("log-odds need at least two options")
    return scores[index] - logsumexp(rest)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; ValueError for nothing."""
    if not values:
        raise ValueError("mean of nothing")
    return sum(values) / len(values)


def calibrated(scores: Sequence[float], content_free: Sequence[Sequence[float]]) -> list[float]:
    """Domain-conditional PMI (Holtzman et al. 2021, 2104.08315): score less the mean score in content-free contexts."""
    return [s - mean([free[k] for free in content_free]) for k, s in enumerate(scores)]


def crossing(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """First x at which y falls through 0, linear in log2 x between neighbours; None when it never does inside `xs`."""
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        if y0 > 0 >= y1:
            share = y0 / (y0 - y1)
            return 2 ** (math.log2(x0) + share * (math.log2(x1) - math.log2(x0)))
    return None
