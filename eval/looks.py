"""Looks at growing numbers of seeds under a plan: how much alpha each may spend, and the level at which it is judged.

Breaking.  The first seeds of a later look are those of the earlier ones, so the sign vectors of all seeds flip the
statistics of every look at once.  Under symmetry they are equally likely given the magnitudes, which is the joint
distribution of the looks: no normal table, no assumption about how seeds are distributed.  At each look the level is
the largest at which all looks so far reject in less than the alpha to be spent by then (error spending of Lan and
DeMets 1983), so that the whole plan rejects a true null in less than alpha, however contrasts and looks correlate.
Magnitudes decide the level and signs decide the verdict: the level tells nothing of what it will be held against.
Every planned look counts as taken, since files cannot tell whether somebody looked.  A hypothesis that an earlier look
rejected stays rejected; a later look is judged on its own seeds at its own level.

Equivalence.  That the null is now |difference| >= margin does not spare it the spending: at a difference of exactly the
margin, two one-sided tests that are read at alpha at each of three looks say `symmetric` more often than alpha.  It
does have an alpha of its own, not shared with the test of breaking: no truth lets both err.  Its tests are t tests, so
its levels come from nested one-sided t tests of normal seeds, drawn once and known before any data.  Items that all
looks share bind the looks closer together than nesting alone does, and then less than alpha is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import e, log, sqrt
from statistics import NormalDist

import numpy as np

from eval.design import Design
from eval.signflip import EXACT, TIE, canonical, scaled, sign_vectors

DRAWS = 100_000  # of normal seeds: a level of .02 is then known to .0005
SAMPLES = 5  # of normal seeds: the levels of one differ from another's by some hundredths of themselves


@dataclass(frozen=True)
class Levels:
    """What p must lie below: the adjusted p for `broken`, that of each of the two one-sided tests for `symmetric`."""

    broken: float
    symmetric: float


def spending(kind: str, alpha: float, share: float) -> float:
    """Alpha that may be spent when `share` of the planned seeds are there (Lan and DeMets 1983).

    "pocock": alpha ln(1 + (e - 1) share), early and late much alike; "obrien-fleming":
    2 - 2 Phi(z_{1 - alpha/2} / sqrt share), almost nothing early.  All of it from share 1 on.
    """
    if share >= 1:
        return alpha
    if kind == "pocock":
        return alpha * log(1 + (e - 1) * share)
    if kind == "obrien-fleming":
        normal = NormalDist()
        return 2 - 2 * normal.cdf(normal.inv_cdf(1 - alpha / 2) / sqrt(share))
    raise ValueError(f"no spending function {kind!r}")


def taken(planned: Sequence[int], seeds: int) -> tuple[int, ...]:
    """The looks up to the one at `seeds`: all planned ones before it, and itself, planned or not."""
    return (*(look for look in planned if look < seeds), seeds)


def sign_flip_levels(x: np.ndarray, looks: Sequence[int], spend: Sequence[float]) -> list[float]:
    """The level of max-T's p at each look, from the seed means x [S seeds, n contrasts], NaN for a missing seed.

    `looks` are numbers of seeds in rising order, the last S; `spend` is the alpha to be spent by each.  A look rejects
    where p is below its level, which may be one that no p can lie below.  Exact up to 2^16 sign vectors, then on a
    fixed sample that includes the identity.
    """
    there = np.isfinite(x).any(axis=1)
    sizes = [int(there[:look].sum()) for look in looks]
    x = x[there]
    z = scaled(x)
    finite = np.isfinite(x)
    edges = [0, *sizes]
    # within the seeds that a look adds, neither their order nor the swap of the arms may move a bit
    order = [_ordered(z[a:b], finite[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    z, finite = np.concatenate([o[0] for o in order]), np.concatenate([o[1] for o in order])
    thresholds: list[float] = []
    levels = []
    for k, size in enumerate(sizes):
        signs = _sign_vectors(size)
        found = [_max_t(signs[:, :n], z[:n], finite[:n]) for n in sizes[: k + 1]]
        rejected = np.zeros(len(signs), dtype=bool)
        for statistic, threshold in zip(found, thresholds, strict=False):
            rejected |= statistic >= threshold - TIE
        threshold, level = _spend(found[k], rejected, spend[k])
        thresholds.append(threshold)
        levels.append(level)
    return levels


@cache
def one_sided_levels(looks: tuple[int, ...], spend: tuple[float, ...]) -> tuple[float, ...]:
    """The level of a one-sided t test at each look when seeds are normal and lie at the edge of the null.

    By simulation of nested looks; p is the rank of a statistic among all draws, so that no table is used.  A look at
    fewer than two seeds has no statistic and shows nothing.
    """
    x = np.random.default_rng(0).standard_normal((DRAWS, looks[-1]))
    shown = np.zeros(DRAWS, dtype=bool)
    levels = []
    for look, allowed in zip(looks, spend, strict=True):
        if look < 2:
            levels.append(0.0)
            continue
        # rises with t, and lies in [-1, 1]
        statistic = x[:, :look].sum(axis=1) / np.sqrt(look * (x[:, :look] ** 2).sum(axis=1))
        threshold, level = _spend(statistic, shown, allowed)
        shown |= statistic >= threshold - TIE
        levels.append(level)
    return tuple(levels)


@cache
def usual_levels(looks: tuple[int, ...], spend: tuple[float, ...]) -> tuple[float, ...]:
    """About the level that `sign_flip_levels` will find: the median over a few draws of normal seeds, one contrast."""
    draws = np.random.default_rng(0).standard_normal((SAMPLES, looks[-1], 1))
    return tuple(np.median([sign_flip_levels(x, looks, spend) for x in draws], axis=0).tolist())


def plan(looks: Sequence[int], seeds: int, alpha: float, kind: str, pairs: int = 1) -> list[dict[str, float | int]]:
    """What can be said of the looks up to `seeds` before anything is seen: seeds, alpha spent by then, levels.

    `bound`: about what the adjusted p of the primary family must lie below.  The level itself is computed from the
    seeds' magnitudes when they are there, so that the looks together spend less than `spent`, whatever `bound` says.
    `equivalence`: the level of each of the two one-sided tests, exactly this.  Alpha is divided over the `pairs`, and
    adjusted p are multiplied by their number.
    """
    sizes = taken(looks, seeds)
    own, shared = (tuple(spending(kind, a, size / max(looks)) for size in sizes) for a in (alpha, alpha / pairs))
    usual, one = usual_levels(sizes, shared), one_sided_levels(sizes, own)
    return [
        {"seeds": size, "spent": s, "bound": min(1.0, u * pairs), "equivalence": q}
        for size, s, u, q in zip(sizes, own, usual, one, strict=True)
    ]


def told(design: Design) -> dict[str, object]:
    """What verdict.json says of the looks up to this one; nothing without a plan."""
    if not design.looks:
        return {}
    return {"looks": plan(design.looks, len(design.seeds), design.alpha, design.spending, len(design.pairs))}


def levels_of(family: np.ndarray, design: Design) -> dict[bool, Levels]:
    """The levels of a pair at this look: of its primary family, with the seed means [S, n], and of other contrasts.

    By whether a contrast is primary.  Others are exploratory and adjusted otherwise; theirs is about the level
    of a single test.  Without a plan there is one look, at alpha.
    """
    alpha, pairs, seeds = design.alpha, len(design.pairs), len(design.seeds)
    if not design.looks:
        return dict.fromkeys((True, False), Levels(alpha, alpha))
    sizes = taken(design.looks, seeds)
    spend = [spending(design.spending, alpha / pairs, size / design.looks[-1]) for size in sizes]
    broken = sign_flip_levels(family, sizes, spend)[-1] * pairs if family.size else 0.0
    known = plan(design.looks, seeds, alpha, design.spending)[-1]
    one_sided = float(known["equivalence"])
    return {True: Levels(min(broken, 1.0), one_sided), False: Levels(float(known["bound"]), one_sided)}


def _sign_vectors(n: int) -> np.ndarray:
    """The sign vectors [b, n] that p is counted over, the identity first."""
    drawn = list(sign_vectors(n))
    return np.concatenate(drawn if 0 < n <= EXACT else [np.ones((1, n)), *drawn])


def _ordered(z: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(z):
        return z, finite
    marked = canonical(np.hstack([z, np.where(finite, 1.0, 0.0)]))
    # a row whose first entry was negative has been negated as a whole, its marks too
    return marked[:, : z.shape[1]], marked[:, z.shape[1] :] != 0


def _max_t(signs: np.ndarray, z: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """The largest |t| over contrasts for each sign vector [b], as |sum| / norm in [0, 1] of as many seeds as rows."""
    n = finite.sum(axis=0)
    norm = np.sqrt(n * (z * z).sum(axis=0))
    used = (n >= 2) & (norm > 0)
    if not used.any():
        return np.zeros(len(signs))
    n = n[used]
    r = np.minimum(np.abs(signs @ (z[:, used] / norm[used])), 1.0)
    # contrasts that lack seeds: the value at which all seeds would have the same |t|
    size = len(z)
    room = np.where(n < size, (size - 1) * (1 - r * r) + (n - 1) * r * r, n - 1)
    return (r * np.sqrt((n - 1) / room)).max(axis=1)


def _spend(statistic: np.ndarray, rejected: np.ndarray, allowed: float) -> tuple[float, float]:
    """Threshold of the statistic and level of p at which less than `allowed` of all draws are rejected by now.

    Draws that tie are rejected together or not at all.  The level is the p of the largest statistic not rejected.
    """
    order = np.argsort(-statistic, kind="stable")
    falling, new = statistic[order], ~rejected[order]
    ends = np.append(np.flatnonzero(falling[:-1] - falling[1:] > TIE), len(falling) - 1)  # last of each tie
    total = (rejected.sum() + np.cumsum(new)[ends]) / len(statistic)
    spent = int(np.searchsorted(total, allowed, side="left"))  # ties that may all go
    threshold = float(falling[ends[spent - 1]]) if spent else np.inf
    return threshold, float(ends[spent] + 1) / len(statistic)
