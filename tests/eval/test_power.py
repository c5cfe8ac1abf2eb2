"""Power against a simulation of the real test, its limits in closed form, and the seeds that follow."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.equivalence import equivalent, seeds_needed
from eval.interval import Estimate, crossed, seed_sd
from eval.power import MOST_SEEDS, power, sd_of_interval, seeds_for, seeds_for_equivalence
from eval.signflip import max_t

ERROR = 3 * (0.25 / 400 + 0.25 / 300) ** 0.5  # three standard errors of two simulations, 400 and 300 replicates


def simulated(effect: float, margin: float, seeds: int, tests: int, level: float) -> tuple[float, float]:
    """Shares of 300 experiments: the real max-T, all sign vectors, and seeds drawn otherwise."""
    random = np.random.default_rng(77)
    found = np.zeros(2)
    for _ in range(300):
        x = random.standard_normal((seeds, tests))
        x[:, 0] += effect
        hit = max_t(x)[0] < level
        found += (hit, hit and abs(x[:, 0].mean()) >= margin)
    return float(found[0] / 300), float(found[1] / 300)


@pytest.mark.parametrize(
    ("effect", "margin", "seeds", "tests", "level"),
    [(1.0, 1.0, 8, 1, 0.05), (1.0, 0.5, 12, 6, 0.05), (2.0, 1.0, 8, 12, 0.05), (1.2, 0.6, 11, 2, 0.01)],
)
def test_power_is_that_of_the_real_test(effect: float, margin: float, seeds: int, tests: int, level: float) -> None:
    told = power(effect, margin, seeds, tests, level)
    assert (told.test, told.broken) == pytest.approx(simulated(effect, margin, seeds, tests, level), abs=ERROR)


def test_one_contrast_at_six_seeds_in_closed_form() -> None:
    # p < .05 needs all six seeds on one side: Phi(1.5)^6 + Phi(-1.5)^6 = .933^6 = .661, as STATISTICS.md has it
    assert power(1.5, 0.0, 6, 1, 0.05).test == pytest.approx(0.661, abs=3 * 0.0237)  # standard error of 400
    # ... and .93 at S = 8, .998 at 12
    assert power(1.5, 0.0, 8, 1, 0.05).test == pytest.approx(0.93, abs=3 * 0.0128)
    assert power(1.5, 0.0, 12, 1, 0.05).test >= 0.98


def test_without_an_effect_it_is_the_level() -> None:
    # 400 replicates of .05: standard error .011; a family shares it, so that one of twelve has less
    assert power(0.0, 0.0, 12, 1, 0.05).test == pytest.approx(0.05, abs=0.033)
    assert power(0.0, 0.0, 12, 12, 0.05).test <= 0.02


def test_what_no_data_can_show_has_no_power() -> None:
    assert power(9.0, 1.0, 5, 1, 0.05).test == 0.0  # 2 / 2^5 = .0625
    assert power(9.0, 1.0, 6, 1, 0.05).test == 1.0
    assert power(inf, inf, 8, 3, 0.05).broken == 1.0  # seeds that do not vary at all
    assert power(9.0, 1.0, 8, 1, 0.0078125).test == 0.0  # not below the least p


def test_small_levels_of_many_pairs_are_not_lost_among_the_sign_vectors_drawn() -> None:
    # 19 pairs: p below .0026, less than one in the 512 sign vectors that suffice for .05
    assert power(3.0, 1.0, 16, 1, 0.05 / 19).test >= 0.99


def test_an_effect_of_the_margin_is_called_broken_in_half_of_the_experiments_at_most() -> None:
    told = power(1.0, 1.0, 40, 1, 0.05)
    assert told.test >= 0.99 and told.broken == pytest.approx(0.5, abs=3 * 0.025)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 3.0), st.floats(1.0, 1.5), st.integers(6, 24), st.integers(1, 6))
def test_power_grows_with_effect_and_falls_with_the_family(effect: float, more: float, seeds: int, tests: int) -> None:
    one = power(effect, 0.0, seeds, tests, 0.05).test
    # the same replicates, but what is beyond the effect's own flips may change for a few of them
    assert power(effect * more, 0.0, seeds, tests, 0.05).test >= one - 0.01
    assert power(effect, 0.0, seeds, tests + 1, 0.05).test <= one


def test_seeds_for_a_power_are_the_fewest() -> None:
    found = seeds_for(2.0, 1.0, 6, 0.05)
    assert found is not None
    assert power(2.0, 1.0, found, 6, 0.05).broken >= 0.9 > power(2.0, 1.0, found - 1, 6, 0.05).broken
    assert seeds_for(0.1, 0.05, 1, 0.05) is None  # ((1.96 + 1.28) / .1)^2 = 1,050 seeds
    assert seeds_for(1.0, 1.0, 1, 0.05) is None  # at the margin half of the estimates are smaller
    assert seeds_for(inf, inf, 1, 0.05) == 6  # the fewest that can be significant
    assert MOST_SEEDS >= 64  # more than any recipe has


def test_seeds_for_equivalence_are_those_of_the_judging_and_have_the_power_it_names() -> None:
    assert seeds_for_equivalence(1.0, 0.5, 0.05) == 35  # (2.926 * 2)^2 = 34.3
    assert seeds_for_equivalence(0.0, 1.0, 0.05) == 2 and seeds_for_equivalence(1.0, 0.0, 0.05) is None
    x = np.random.default_rng(3).standard_normal((10, 1))
    assert seeds_for_equivalence(seed_sd(x), 0.3, 0.05) == seeds_needed(x, 0.3, 0.05)
    random, shown = np.random.default_rng(4), 0
    for _ in range(500):
        e = crossed(random.standard_normal((35, 1)))
        below, above = (Estimate(e.mean + m, e.variance, e.df) for m in (-0.5, 0.5))
        shown += equivalent(below, above, 0.05)
    assert shown / 500 == pytest.approx(0.8, abs=3 * 0.018)  # standard error of 500 replicates


def test_a_standard_deviation_is_found_again_in_the_interval_over_seeds() -> None:
    x = np.random.default_rng(5).standard_normal((9, 1))
    low, high = crossed(x).interval(0.95)
    assert sd_of_interval(low, high, 0.95, 9) == pytest.approx(np.std(x, ddof=1), rel=1e-12)
    assert seed_sd(x) == pytest.approx(np.std(x, ddof=1), rel=1e-12)
    assert sd_of_interval(0.0, 1.0, 0.95, 1) is None and np.isnan(seed_sd(x[:1]))
