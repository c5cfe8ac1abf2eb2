"""Shares of independent experiments, each with its exact interval."""

from __future__ import annotations

from typing import Any

LEVEL = 0.95


def clopper_pearson(count: int, of: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share, `count` of `of` independent trials (Clopper and Pearson 1934); (0, 1) of no trial.

    It never covers less than `level`, whatever the true share.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(count, of - count + 1, tail)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return low, high


def rate(count: int, of: int) -> dict[str, Any]:
    """``{"count", "of", "share", "low", "high"}``; the share of no trial is None."""
    low, high = clopper_pearson(count, of)
    return {"count": count, "of": of, "share": count / of if of else None, "low": low, "high": high}
