"""Power of the sign-flip test with max-T, the seeds that a power takes, and those that equivalence takes.

Everything is in seed standard deviations: the effect is divided by the standard deviation, over seeds, of a contrast's
mean over items.  Seeds are taken as normal here; the test itself does not need that.  The other tests of the family are
taken as independent, the hardest case for max-T: correlated ones leave more power, so what is said is a lower bound,
as Bonferroni's would be, but one that does not call impossible at few seeds what max-T can reach.  Replicates are drawn
once, from a fixed seed, and are the same for every effect and size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, inf, log2, sqrt
from statistics import NormalDist

import numpy as np

from eval.signflip import TIE, smallest_p

REPLICATES = 400  # a power of .9 is then known to .015 (one standard error)
VECTORS = 512  # sign vectors per test, or more where a level is small; all there are, or else drawn
MOST_VECTORS = 2048
WANTED = 0.9
MOST_SEEDS = 128  # beyond, the answer is "more than"


@dataclass(frozen=True)
class Power:
    """What a design can show: `test`, the share of experiments in which max-T's p is below the level, and `broken`, the
    share in which the estimate is also at or beyond the margin, as the verdict asks."""

    test: float
    broken: float


def power(effect: float, margin: float, seeds: int, tests: int, level: float) -> Power:
    """Power at a true `effect` with `margin`, both in seed standard deviations, in a family of `tests` contrasts.

    `level`: alpha over the number of pairs, or what a look may use.  An effect that no data can show has power 0.
    At effect = margin `broken` is at most about a half, whatever the seeds: half of the estimates are smaller.
    """
    if seeds < 2 or smallest_p(seeds) >= level:
        return Power(0.0, 0.0)
    if effect == inf:
        return Power(1.0, 1.0)
    vectors = min(max(VECTORS, 2 ** ceil(log2(4 / level))), MOST_VECTORS)  # four of them are beyond the level
    noise, signs = _noise(seeds), _signs(seeds, vectors)
    shifted = noise + effect
    unit = shifted / np.sqrt(seeds * (shifted**2).sum(axis=1))[:, None]
    flipped = np.abs(unit @ signs.T)  # [R, b]; the first sign vector is the identity
    reached = np.maximum(flipped, _others(seeds, tests - 1, vectors)) >= flipped[:, :1] - TIE
    found = reached.mean(axis=1) < level
    return Power(float(found.mean()), float((found & (np.abs(shifted.mean(axis=1)) >= margin)).mean()))


def seeds_for(effect: float, margin: float, tests: int, level: float, wanted: float = WANTED) -> int | None:
    """Fewest seeds at which `broken` has the power `wanted`, None where more than MOST_SEEDS; as in `power`.

    None as well where the effect does not lie beyond the margin, since no number of seeds is enough then.
    """
    if effect <= margin and effect < inf:
        return None
    low, high = 1, 2
    while power(effect, margin, high, tests, level).broken < wanted:
        if high == MOST_SEEDS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, margin, middle, tests, level).broken >= wanted else (middle, high)
    return high


def seeds_for_equivalence(sd: float, margin: float, alpha: float) -> int | None:
    """Seeds at which two one-sided tests show equivalence with power .8 when there is no difference.

    ((z_{1-alpha} + z_{.9}) sd / margin)^2, 2.93 at alpha .05 (see `eval.equivalence`), at least two; `sd` and `margin`
    in the unit of the measure.  None without a margin.  What items add to the variance is not in it.
    """
    if not margin > 0:
        return None
    normal = NormalDist()
    return max(2, ceil(((normal.inv_cdf(1 - alpha) + normal.inv_cdf(0.9)) * sd / margin) ** 2))


def sd_of_interval(low: float, high: float, level: float, seeds: int) -> float | None:
    """Standard deviation over seeds from the interval of a mean, where nothing better is known; None for one seed.

    As if it were the t interval over seeds, which is as wide as or narrower than the crossed one: items that vary make
    this too large and the power too small.
    """
    if seeds < 2:
        return None
    return (high - low) / 2 * sqrt(seeds) / _t_quantile(0.5 + level / 2, seeds - 1)


@cache
def _noise(seeds: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((REPLICATES, MOST_SEEDS))[:, :seeds]


@cache
def _signs(seeds: int, vectors: int) -> np.ndarray:
    """Sign vectors [b, S] up to their common sign, the identity first."""
    if 2 ** (seeds - 1) <= vectors:
        return 1.0 - 2.0 * ((np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)) & 1)
    drawn = np.random.default_rng(2).integers(0, 2, size=(vectors, seeds))
    drawn[0] = 0
    return 1.0 - 2.0 * drawn


@cache
def _others(seeds: int, tests: int, vectors: int) -> np.ndarray:
    """The largest |sum| / norm of `tests` contrasts without an effect, per replicate and sign vector [R, b]."""
    signs = _signs(seeds, vectors).astype(np.float32)  # half the time; no tie hangs on these
    most = np.zeros((REPLICATES, len(signs)), dtype=np.float32)
    for test in range(tests):
        x = np.random.default_rng(3 + test).standard_normal((REPLICATES, MOST_SEEDS))[:, :seeds]
        unit = x / np.sqrt(seeds * (x**2).sum(axis=1))[:, None]
        np.maximum(most, np.abs(unit.astype(np.float32) @ signs.T), out=most)
    return most


@cache
def _t_quantile(p: float, df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, p))
