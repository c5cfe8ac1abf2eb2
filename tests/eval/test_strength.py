"""Equal strength: isotonic knots, the common range, the reading, against scipy and an independent PAVA."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.strength import common_strength, curve, read_at

STRENGTHS = st.lists(st.integers(-50, 50).map(lambda v: v / 4), min_size=1, max_size=8)


def pool_adjacent_violators(values: list[float]) -> list[float]:
    """Isotonic regression written independently: merge neighbouring blocks while they fall."""
    blocks: list[list[float]] = []
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [float(np.mean(b)) for b in blocks for _ in b]


@settings(deadline=None)  # a busy machine is not an error
@given(STRENGTHS)
def test_knots_are_the_distinct_monotone_strengths(values: list[float]) -> None:
    made = curve(np.array(values))
    assert (np.diff(made.knots) > 0).all()
    assert made.knots[made.group] == pytest.approx(pool_adjacent_violators(values), abs=1e-9)


def test_reads_as_scipy_does_where_strength_rises() -> None:
    from scipy.interpolate import PchipInterpolator

    at, values = np.array([1.0, 2.0, 4.0, 5.0]), np.random.default_rng(0).normal(size=(4, 2, 3))
    found = read_at(curve(at), values, np.ones(4, dtype=bool), 2.9)
    assert found == pytest.approx(PchipInterpolator(at, values, axis=0)(2.9), abs=1e-12)


def test_doses_of_one_strength_are_pooled() -> None:
    made = curve(np.array([0.0, 3.0, 1.0, 4.0]))  # 3 and 1 violate: both become 2
    assert made.knots.tolist() == [0, 2, 4] and made.group.tolist() == [0, 1, 1, 2]
    values = np.array([[0.0], [10.0], [20.0], [30.0]])
    assert read_at(made, values, np.ones(4, dtype=bool), 2.0) == pytest.approx([15.0])


def test_common_strength_is_the_middle_of_the_common_range() -> None:
    first, second = curve(np.array([0.0, 4.0])), curve(np.array([1.0, 9.0]))
    assert common_strength(first, second) == common_strength(second, first) == 2.5
    assert common_strength(curve(np.array([0.0, 1.0])), curve(np.array([2.0, 3.0]))) is None
    assert common_strength(curve(np.array([np.nan])), first) is None


def test_one_distinct_strength_is_read_where_it_lies() -> None:
    flat = curve(np.array([2.0, 2.0, np.nan]))
    other = curve(np.array([1.0, 3.0]))
    assert common_strength(flat, other) == 2.0
    values = np.array([[1.0], [3.0], [100.0]])
    assert read_at(flat, values, np.ones(3, dtype=bool), 2.0).tolist() == [2.0]


def test_nothing_is_extrapolated() -> None:
    made, values = curve(np.array([1.0, 2.0, 3.0])), np.array([[1.0], [2.0], [3.0]])
    there = np.array([True, True, False])  # the measure was not taken at the last dose
    assert np.isnan(read_at(made, values, there, 2.5)).all()
    assert read_at(made, values, there, 1.5) == pytest.approx([1.5])
