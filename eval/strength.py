"""Equal strength: where two arms' curves of a measure over strength are read, fixed by rule and not chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """How far an arm of one seed got: `knots` are its distinct monotone strengths, `group` the knot of each dose.

    A dose without strength has group -1.
    """

    knots: np.ndarray
    group: np.ndarray


def curve(strengths: np.ndarray) -> Curve:
    """Monotone strengths of the doses [D] (in rising order; NaN: not measured) by isotonic regression.

    Doses that the regression ties (Barlow et al. 1972) share one knot: whether the strength rose between them cannot
    be told, so what was measured at them is averaged.
    """
    from scipy.optimize import isotonic_regression

    group = np.full(len(strengths), -1)
    there = np.flatnonzero(np.isfinite(strengths))
    if not len(there):
        return Curve(np.empty(0), group)
    monotone = isotonic_regression(strengths[there]).x
    # differences that rounding makes would give knots a distance of nothing
    close = 1e-9 * max(1.0, float(np.abs(monotone).max()))
    group[there] = np.concatenate([[0], np.cumsum(np.diff(monotone) > close)])
    knots = np.array([monotone[group[there] == g].mean() for g in range(group.max() + 1)])
    return Curve(knots, group)


def common_strength(first: Curve, second: Curve) -> float | None:
    """Middle of the range of strength that both arms of a seed went through; None where there is none."""
    if not len(first.knots) or not len(second.knots):
        return None
    low = max(first.knots[0], second.knots[0])
    high = min(first.knots[-1], second.knots[-1])
    return float(low + high) / 2 if low <= high else None


def read_at(arm: Curve, values: np.ndarray, there: np.ndarray, at: float) -> np.ndarray:
    """What `values` [D doses, ...] are at strength `at`, result [...]; see `read_all`."""
    return read_all(arm, values, there, np.array([at]))[0]


def read_all(arm: Curve, values: np.ndarray, there: np.ndarray, at: np.ndarray) -> np.ndarray:
    """What `values` [D doses, ...] are at each strength of `at` [J], result [J, ...].

    PCHIP (Fritsch and Butland 1984) over the knots, which keeps monotone data monotone; with one knot its mean.
    `there` [D]: doses at which the measure was taken.  NaN where a strength lies outside the doses that remain.
    """
    from scipy.interpolate import PchipInterpolator

    result = np.full((len(at), *values.shape[1:]), np.nan)
    groups = [g for g in range(len(arm.knots)) if np.any(there & (arm.group == g))]
    if not groups:
        return result
    inside = (arm.knots[groups[0]] <= at) & (at <= arm.knots[groups[-1]])
    pooled = np.stack([_mean(values[there & (arm.group == g)]) for g in groups])
    if len(groups) == 1:
        result[inside] = pooled[0]
        return result
    known = np.isfinite(pooled).all(axis=0)
    if known.any() and inside.any():
        block = np.full((int(inside.sum()), *values.shape[1:]), np.nan)
        block[:, known] = PchipInterpolator(arm.knots[groups], pooled[:, known], axis=0)(at[inside])
        result[inside] = block
    return result


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis, added one dose after the other, so that no bit depends on the memory layout."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total / len(values)
