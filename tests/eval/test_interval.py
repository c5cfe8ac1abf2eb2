"""The crossed interval: against references, its invariances, and its coverage."""

from __future__ import annotations

from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eval.interval import crossed

TABLES = hnp.arrays(
    float, st.tuples(st.integers(2, 7), st.integers(1, 6)), elements=st.floats(-1e3, 1e3, allow_subnormal=False)
)


def made(random: np.random.Generator, seeds: int, items: int, sd: tuple[float, float, float]) -> np.ndarray:
    s, i, r = sd
    return random.normal(0, s, (seeds, 1)) + random.normal(0, i, (1, items)) + random.normal(0, r, (seeds, items))


def by_anova(x: np.ndarray) -> tuple[float, float]:
    """Variance and degrees of freedom from the mean squares of statsmodels' two-way table."""
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    s, i = np.indices(x.shape)
    frame = pd.DataFrame({"x": x.ravel(), "s": s.ravel(), "i": i.ravel()})
    table = anova_lm(ols("x ~ C(s) + C(i)", frame).fit())
    ms, df = table["mean_sq"].to_numpy(), table["df"].to_numpy()
    total = ms[0] + ms[1] - ms[2]
    return total / x.size, total**2 / (ms**2 / df).sum()


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_statsmodels_anova(seed: int) -> None:
    x = made(np.random.default_rng(seed), 8, 5, (1.0, 0.7, 0.4))
    variance, df = by_anova(x)
    estimate = crossed(x)
    assert estimate.mean == pytest.approx(x.mean(), abs=1e-12)
    assert estimate.variance == pytest.approx(variance, rel=1e-10)
    assert estimate.df == pytest.approx(max(df, 4), rel=1e-10)


def test_agrees_with_a_mixed_model_on_balanced_data() -> None:
    import statsmodels.api as sm

    x = made(np.random.default_rng(3), 9, 7, (1.0, 0.8, 0.5))
    s, i = np.indices(x.shape)
    frame = pd.DataFrame({"x": x.ravel(), "s": s.ravel(), "i": i.ravel(), "one": 1})
    fit = sm.MixedLM.from_formula("x ~ 1", frame, groups="one", vc_formula={"s": "0 + C(s)", "i": "0 + C(i)"}).fit(
        reml=True
    )
    # REML and the method of moments are the same on balanced data with positive components; 1e-3 is its optimiser's
    assert crossed(x).variance == pytest.approx(float(fit.bse_fe.iloc[0]) ** 2, rel=1e-3)


def test_one_item_is_the_t_interval_over_seeds() -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    x = np.random.default_rng(0).normal(1, 2, 9)
    assert crossed(x[:, None]).interval(0.95) == pytest.approx(DescrStatsW(x).tconfint_mean(0.05), abs=1e-10)


@settings(deadline=None)  # a busy machine is not an error
@given(TABLES, st.randoms(use_true_random=False))
def test_order_and_sign_leave_no_trace(x: np.ndarray, random: Random) -> None:
    estimate, (low, high) = crossed(x), crossed(x).interval(0.95)
    rows, columns = (random.sample(range(n), n) for n in x.shape)
    assert crossed(x[np.ix_(rows, columns)]) == estimate
    assert crossed(-x).interval(0.95) == (-high, -low)


@settings(deadline=None)  # a busy machine is not an error
@given(TABLES)
def test_always_a_number_and_never_fewer_degrees_than_the_floor(x: np.ndarray) -> None:
    estimate = crossed(x)
    assert np.isfinite([estimate.mean, estimate.variance, *estimate.interval(0.95)]).all() and estimate.variance >= 0
    assert estimate.df >= max(1, min(x.shape) - 1)


def test_sum_that_is_not_positive_uses_the_larger_mean_square() -> None:
    x = np.array([[1.0, -1.0], [-1.0, 1.0]])  # nothing but residual: both mean squares are 0
    assert crossed(x).variance == 0
    x = np.array([[1.1, -0.9], [-0.9, 0.9]])  # MS_seed = MS_item < MS_residual, sum negative
    ms_seed = 2 * np.var(x.mean(axis=1), ddof=1)
    assert crossed(x).variance == pytest.approx(ms_seed / 4, rel=1e-12)
    assert crossed(x).df == 1


def test_duplicated_items_do_not_shrink_the_interval_over_seeds() -> None:
    seeds_only = np.random.default_rng(1).normal(0, 1, (6, 1)) * np.ones((1, 5))
    width = np.subtract(*crossed(seeds_only).interval(0.95)[::-1])
    assert np.subtract(*crossed(np.tile(seeds_only, 2)).interval(0.95)[::-1]) == pytest.approx(width, rel=1e-9)
    random = np.random.default_rng(2)
    ratios = []
    for _ in range(200):
        x = made(random, 8, 12, (1.0, 0.0, 0.5))
        ratios.append(np.sqrt(crossed(np.tile(x, 2)).variance / crossed(x).variance))
    # rows as replicates would give 1 / sqrt(2) = .71; the seed part alone stays exactly
    assert np.mean(ratios) > 0.99 and min(ratios) > 0.93


def test_without_a_second_seed_there_is_no_interval() -> None:
    assert np.isnan(crossed(np.ones((1, 4))).interval(0.95)).all()
    assert np.isnan(crossed(np.empty((0, 4))).mean)


def test_coverage() -> None:
    random = np.random.default_rng(7)
    n = 1500  # standard error of a coverage of .95: sqrt(.95 * .05 / 1500) = .0056, so .93 is 3.6 of them away
    for seeds, items, sd in [
        (6, 24, (1.0, 0.0, 1.0)),
        (6, 24, (0.3, 1.0, 1.0)),
        (8, 24, (1.0, 1.0, 1.0)),
        (16, 12, (1.0, 0.5, 0.5)),
        (8, 1, (1.0, 0.0, 0.0)),
    ]:
        held = 0
        for _ in range(n):
            low, high = crossed(made(random, seeds, items, sd)).interval(0.95)
            held += low <= 0 <= high
        print(f"coverage S={seeds} I={items} sd={sd}: {held / n:.4f}")
        assert 0.93 <= held / n <= 0.97, (seeds, items, sd)
