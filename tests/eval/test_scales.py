"""Scales against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.scales import calibrated, crossing, log_odds, logsumexp

scores = st.lists(st.floats(-400, 0), min_size=2, max_size=9)


@given(scores, st.floats(-50, 50))
def test_log_odds_are_the_logit_of_the_renormalised_probability(values, shift):
    # In float64, exact up to rounding of numbers of about 400.
    exact = np.array(values) - np.logaddexp.reduce(values)
    others = np.logaddexp.reduce(exact[1:])
    assert log_odds(values, 0) == pytest.approx(exact[0] - others, abs=1e-9)
    assert log_odds([v + shift for v in values], 0) == pytest.approx(log_odds(values, 0), abs=1e-9)


def test_log_odds_leave_out_options():
    assert log_odds([-1.0, -2.0, -0.1], 0, (2,)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="two options"):
        log_odds([-1.0, -2.0], 0, (1,))


def test_extreme_scores_stay_finite():
    assert log_odds([-1000.0, -1e-9], 0) == pytest.approx(-1000)
    assert logsumexp([]) == -np.inf


def test_calibration_takes_out_what_a_name_has_anywhere():
    free = [[-1.0, -3.0], [-2.0, -4.0]]
    assert calibrated([-1.5, -3.5], free) == [0.0, 0.0]


def test_crossing_is_linear_in_log2_turns():
    # From +1 at 2 turns to -1 at 8: half way in log2, at 4.
    assert crossing((1, 2, 8), (3.0, 1.0, -1.0)) == pytest.approx(4.0)
    assert crossing((1, 2, 4), (3.0, 2.0, 1.0)) is None
    assert crossing((1, 2, 4), (-3.0, -2.0, -1.0)) is None  # below from the start: nobody saw the crossing
    assert crossing((1, 2, 4), (1.0, 0.0, 1.0)) == pytest.approx(2.0)
