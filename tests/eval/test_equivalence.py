"""Equivalence and the share, against statsmodels and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from eval.equivalence import beyond, bounds, equivalent, seeds_needed, share
from eval.interval import crossed
from eval.probe import Margin


@pytest.mark.parametrize("seed", range(20))
def test_absolute_agrees_with_statsmodels_tost(seed: int) -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    x = np.random.default_rng(seed).normal(0.2, 1, 9)
    p = DescrStatsW(x).ttost_mean(-0.9, 0.9)[0]
    assert equivalent(*bounds(x[:, None], None, Margin("absolute", 0.9, "")), 0.05) == (p < 0.05)
    # at alpha just above and below the reference's p the decision turns
    shown = [equivalent(*bounds(x[:, None], None, Margin("absolute", 0.9, "")), p * f) for f in (1 + 1e-8, 1 - 1e-8)]
    assert shown == [True, False] or p >= 0.5


def test_relative_needs_no_ratio() -> None:
    random = np.random.default_rng(1)
    t, delta = random.normal(8, 0.5, (8, 6)), random.normal(0.2, 0.3, (8, 6))
    below, above = bounds(delta, t, Margin("relative", 0.25, ""))
    assert (below, above) == (crossed(delta - 0.25 * t), crossed(delta + 0.25 * t))
    assert equivalent(below, above, 0.05) and not beyond(below, above, 0.05)
    far = bounds(delta + 4, t, Margin("relative", 0.25, ""))
    assert beyond(*far, 0.05) and not equivalent(*far, 0.05)
    mirrored = bounds(-delta - 4, t, Margin("relative", 0.25, ""))
    assert beyond(*mirrored, 0.05)


def test_share_is_where_the_interval_of_delta_less_that_share_of_t_touches_zero() -> None:
    from scipy.optimize import brentq

    random = np.random.default_rng(2)
    t, delta = random.normal(8, 1.5, (9, 1)), random.normal(2, 0.6, (9, 1))  # one item: degrees of freedom are 8
    made = share(delta, t, 0.95)
    assert made is not None
    found, low, high = made
    assert found == pytest.approx(delta.mean() / t.mean(), rel=1e-12)
    assert low == pytest.approx(brentq(lambda q: crossed(delta - q * t).interval(0.95)[0], -5, found), abs=1e-9)
    assert high == pytest.approx(brentq(lambda q: crossed(delta - q * t).interval(0.95)[1], found, 5), abs=1e-9)
    assert share(-delta, t, 0.95) == (-found, -high, -low)


def test_share_is_unknown_where_t_may_be_zero() -> None:
    random = np.random.default_rng(3)
    assert share(random.normal(1, 1, (8, 1)), random.normal(0, 1, (8, 1)), 0.95) is None


def test_seeds_needed_is_the_stated_formula() -> None:
    x = np.random.default_rng(4).normal(0, 2, (8, 1))
    sd = x.std(ddof=1)
    assert seeds_needed(x, 0.3, 0.05) == pytest.approx((2.93 * sd / 0.3) ** 2, abs=1.5)  # 2.93 is rounded
    assert seeds_needed(x, 100.0, 0.05) == 9  # eight did not settle it
    assert seeds_needed(x, 0.0, 0.05) is None and seeds_needed(x[:1], 1.0, 0.05) is None


def test_seeds_do_not_replace_items() -> None:
    items = np.random.default_rng(6).normal(0, 1, (1, 4)) + np.random.default_rng(7).normal(0, 0.1, (8, 4))
    assert seeds_needed(items, 0.5, 0.05) is None  # the items alone leave a standard error near .5
    assert seeds_needed(items, 20.0, 0.05) == 9


def test_equivalence_is_found_as_often_as_the_formula_says() -> None:
    """At the stated number of seeds the power is about .8 (normal approximation), and alpha holds at the margin."""
    random = np.random.default_rng(5)
    margin, n = Margin("absolute", 0.75, ""), 16  # (2.93 * 1 / .75)^2 = 15.3
    equal = np.mean([equivalent(*bounds(random.normal(0, 1, (n, 1)), None, margin), 0.05) for _ in range(1000)])
    edge = np.mean([equivalent(*bounds(random.normal(0.75, 1, (n, 1)), None, margin), 0.05) for _ in range(1000)])
    assert 0.74 < equal < 0.90  # standard error .013
    assert edge < 0.05 + 3 * 0.007
