"""The contrasts: exact under the swap, blind to constants, and what is kept where values are missing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eval.contrasts import Quantities, balanced

SIX = hnp.arrays(float, st.tuples(st.just(6), st.integers(1, 4), st.integers(1, 4)), elements=st.floats(-50, 50))


@settings(deadline=None)  # a busy machine is not an error
@given(SIX)
def test_swap_negates_delta_and_lambda_and_leaves_t_to_the_last_bit(x: np.ndarray) -> None:
    a, c, ac, ca, base_a, base_c = x
    found = Quantities(a, c, ac, ca, base_a, base_c).contrasts()
    swapped = Quantities(c, a, ca, ac, base_c, base_a).contrasts()
    assert np.array_equal(found["T"], swapped["T"])
    assert np.array_equal(found["delta"], -swapped["delta"]) and np.array_equal(found["lambda"], -swapped["lambda"])


@settings(deadline=None)  # a busy machine is not an error
@given(SIX, st.floats(-100, 100))
def test_constant_in_both_arms_changes_nothing(x: np.ndarray, k: float) -> None:
    a, c, ac, ca, base_a, base_c = x
    found = Quantities(a, c, ac, ca, base_a, base_c).contrasts()
    moved = Quantities(a + k, c + k, ac + k, ca + k, base_a, base_c).contrasts()
    for name in found:
        assert np.allclose(found[name], moved[name], rtol=0, atol=1e-12)  # 64 eps x 150 is 2e-12 at most


def test_definitions() -> None:
    one = np.ones((1, 1))
    found = Quantities(5 * one, 7 * one, 2 * one, 1 * one, 0.5 * one, 0.25 * one).contrasts()
    assert found["T"] == ((5 - 1) + (7 - 2)) / 2
    assert found["delta"] == (5 - 0.5) - (7 - 0.25)
    assert found["lambda"] == (2 - 0.25) - (1 - 0.5)
    assert Quantities(one, 3 * one).contrasts() == {"delta": -2}


def test_rounding_is_not_a_difference() -> None:
    base_a, base_c = np.array([[0.1]]), np.array([[12.3]])
    found = Quantities(base_a + 0.3, base_c + 0.3, base_a, base_c, base_a, base_c).contrasts()
    assert found["delta"] == 0 and (base_a + 0.3) - base_a != (base_c + 0.3) - base_c


@settings(deadline=None)  # a busy machine is not an error
@given(hnp.arrays(bool, st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_what_is_left_is_complete(present: np.ndarray) -> None:
    seeds, items = balanced(present)
    assert present[np.ix_(seeds, items)].all() and (len(seeds) > 0) == (len(items) > 0)
    assert (len(seeds) > 0) or not present.any()


def test_which_line_goes() -> None:
    present = np.ones((6, 4), dtype=bool)
    present[3, 1] = False  # one item unparsed in one seed: seeds are the replicates
    assert [len(k) for k in balanced(present)] == [6, 3]
    present = np.ones((6, 4), dtype=bool)
    present[3] = False  # an arm is missing
    assert [len(k) for k in balanced(present)] == [5, 4]
    present = ~np.eye(8, dtype=bool)  # every item is missing in some seed: no more than half of the items go
    seeds, items = balanced(present)
    assert len(items) == 4 and len(seeds) == 4
