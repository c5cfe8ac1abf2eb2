"""Sign flips: against scipy and brute force, exact invariances, ties, and the family-wise false-positive rate."""

from __future__ import annotations

import itertools
import subprocess
import sys
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.stats.multitest import multipletests

from eval.signflip import benjamini_hochberg, can_reach, max_t, sign_flip, smallest_p

FAMILY = hnp.arrays(float, st.tuples(st.integers(2, 8), st.integers(1, 5)), elements=st.floats(-100, 100))
COARSE = hnp.arrays(float, st.tuples(st.integers(2, 7), st.integers(1, 4)), elements=st.integers(-3, 3).map(float))


def brute_max_t(x: np.ndarray) -> np.ndarray:
    """Adjusted p by the definition, with t statistics of complete columns."""

    def t(z: np.ndarray) -> np.ndarray:
        return np.abs(z.mean(axis=0)) / np.maximum(z.std(axis=0, ddof=1) / np.sqrt(len(z)), 1e-300)

    observed = t(x)
    highest = [t(x * np.array(s)[:, None]).max() for s in itertools.product((1, -1), repeat=len(x))]
    return np.array([np.mean([h >= o * (1 - 1e-9) for h in highest]) for o in observed])


@pytest.mark.parametrize("seeds", [2, 5, 8, 11])
def test_agrees_with_scipy(seeds: int) -> None:
    from scipy.stats import permutation_test

    x = np.random.default_rng(seeds).normal(0.4, 1, seeds)
    found = permutation_test(
        (x,), lambda a: np.abs(a.mean()), permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert sign_flip(x[:, None])[0] == pytest.approx(found.pvalue, abs=1e-10)


def test_max_t_agrees_with_brute_force() -> None:
    random = np.random.default_rng(0)
    for seeds in (4, 7, 9):
        x = random.normal(0, 1, (seeds, 5)) * [1, 10, 0.1, 1, 1] + [1, 0, 0, 0.5, 0]
        x[:, 4] = -x[:, 0]  # as where lambda is exactly -delta
        assert max_t(x) == pytest.approx(brute_max_t(x), abs=1e-10)


def test_columns_of_other_numbers_of_seeds_compare_by_t() -> None:
    random = np.random.default_rng(1)
    x = random.normal(0.5, 1, (8, 3))
    holes = x.copy()
    holes[6:, 1] = np.nan
    highest = []
    for signs in itertools.product((1, -1), repeat=8):
        flipped = holes * np.array(signs)[:, None]
        n = np.isfinite(flipped).sum(axis=0)
        highest.append(np.abs(np.nanmean(flipped, axis=0)) / np.sqrt(np.nanvar(flipped, axis=0, ddof=1) / n))
    observed = highest[0]
    expected = [(np.max(highest, axis=1) >= o * (1 - 1e-9)).mean() for o in observed]
    assert max_t(holes) == pytest.approx(expected, abs=1e-10)
    assert sign_flip(holes)[1] == pytest.approx(sign_flip(x[:6, 1:2])[0], abs=1e-10)


@settings(deadline=None)  # a busy machine is not an error
@given(FAMILY | COARSE, st.randoms(use_true_random=False))
def test_swap_and_order_of_seeds_change_no_bit(x: np.ndarray, random: Random) -> None:
    order = random.sample(range(len(x)), len(x))
    for test in (sign_flip, max_t):
        assert np.array_equal(test(x), test(-x)) and np.array_equal(test(x), test(x[order]))


@pytest.mark.parametrize("values", [(0.1, 0.2, 0.3, -0.3), (0.1 + 0.2, 0.3, -0.3, 0.1), (1e-9, 1e-9, -1e-9, 1e-9)])
def test_ties_of_floats_count_as_ties(values: tuple[float, ...]) -> None:
    exact = [round(v / min(abs(w) for w in values)) for v in values]
    sums = [
        abs(sum(s * v for s, v in zip(signs, exact, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(exact))
    ]
    expected = np.mean([s >= abs(sum(exact)) for s in sums])
    assert sign_flip(np.array(values)[:, None])[0] == expected


@settings(deadline=None)  # a busy machine is not an error
@given(COARSE)
def test_max_t_never_lowers_a_p(x: np.ndarray) -> None:
    assert (max_t(x) >= sign_flip(x)).all()
    assert (sign_flip(x) >= smallest_p(len(x))).all() and (max_t(x) <= 1).all()


@pytest.mark.parametrize("seeds", [1, 5, 6, 8, 16, 17, 24])
def test_smallest_p_is_reached_by_equal_contrasts(seeds: int) -> None:
    x = np.ones((seeds, 1))
    # beyond 16 seeds the identity alone attains it among 65,536 vectors, unless a drawn one repeats it (2^-7 at 24)
    assert sign_flip(x)[0] == pytest.approx(smallest_p(seeds), abs=3 / 65_536 if seeds > 16 else 0)
    assert max_t(x)[0] == (1.0 if seeds == 1 else sign_flip(x)[0])


def test_what_a_number_of_seeds_can_reach() -> None:
    assert smallest_p(5) == 0.0625 and smallest_p(6) == 0.03125 and smallest_p(8) == 0.0078125
    assert not can_reach(5, 0.05) and can_reach(6, 0.05) and not can_reach(0, 0.05)


def test_nothing_at_all_gives_one() -> None:
    zero = np.zeros((6, 2))
    assert sign_flip(zero).tolist() == max_t(zero).tolist() == [1.0, 1.0]


def test_drawn_vectors_are_close_to_all_of_them_and_invariant_too() -> None:
    x = np.random.default_rng(5).normal(0.4, 1, (18, 3))
    p = sign_flip(x)
    exact = []
    for column in x.T:
        sums = np.zeros(1)
        for value in np.abs(column):
            sums = np.concatenate([sums + value, sums - value])
        exact.append((np.abs(sums) >= abs(column.sum()) - 1e-9).mean())
    # 5 standard errors of a share of 65,536
    assert np.abs(p - exact).max() < 5 * np.sqrt(0.25 / 65_536)
    order = np.random.default_rng(0).permutation(18)
    for test in (sign_flip, max_t):
        assert np.array_equal(test(x), test(-x)) and np.array_equal(test(x), test(x[order]))


def test_false_positives_of_a_family() -> None:
    """Twelve correlated contrasts, S = 8, no effect: family-wise error at most .05 (exactly valid test)."""
    random = np.random.default_rng(11)
    n = 1500  # standard error .0056: .05 + 3 of them = .067; a family without adjustment would be near .3
    hits = unadjusted = 0
    for _ in range(n):
        x = random.normal(0, 1, (8, 1)) + random.standard_t(4, (8, 12)) * random.uniform(0.5, 3, 12)
        hits += max_t(x).min() < 0.05
        unadjusted += sign_flip(x).min() < 0.05
    print(f"family-wise false positives: max-T {hits / n:.4f}, unadjusted {unadjusted / n:.4f}")
    assert 0.015 < hits / n < 0.067 and unadjusted / n > 0.15


def test_power_of_the_method() -> None:
    """The figures of the method: a true effect of 1.5 seed standard deviations, S = 6 .66, S = 8 .93."""
    random = np.random.default_rng(12)
    for seeds, power in ((6, 0.66), (8, 0.93)):
        found = np.mean([sign_flip(random.normal(1.5, 1, (seeds, 50))) < 0.05 for _ in range(40)])
        assert found == pytest.approx(power, abs=0.04)  # 2,000 replicates: 3.7 standard errors at .66


@settings(deadline=None)  # a busy machine is not an error
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_benjamini_hochberg_agrees_with_statsmodels(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-12)


def test_the_plan_can_ask_without_loading_scipy_or_polars() -> None:
    code = "import sys, eval.signflip as s; s.can_reach(6, .05); assert not {'scipy', 'polars'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
