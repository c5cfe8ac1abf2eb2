"""The figures of a calibration, from experiments made by hand: shares, coverage, known differences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from parity.calibrate import figures, planned
from parity.calibrate.batch import Batch
from parity.calibrate.checks import checks, told
from parity.calibrate.conditions import FULL, load
from parity.calibrate.rates import clopper_pearson, rate


@pytest.fixture(scope="module")
def design():
    """How the shipped recipe's first experiment is judged: at equal strength."""
    return Batch(load(FULL), 0).design()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from([0.9, 0.95, 0.99]))
def test_clopper_pearson_is_scipys_exact_interval(count, more, level):
    of = count + more
    if not of:
        assert clopper_pearson(0, 0, level) == (0.0, 1.0)
        return
    exact = binomtest(count, of).proportion_ci(level, method="exact")
    assert clopper_pearson(count, of, level) == pytest.approx((exact.low, exact.high), abs=1e-10)


def test_a_share_of_nothing_is_unknown():
    assert rate(0, 0) == {"count": 0, "of": 0, "share": None, "low": 0.0, "high": 1.0}


def test_the_size_of_a_known_difference_is_that_many_margins(design):
    selection = {"probe": "selection", "stage": "sft", "match": "strength", "contrast": "T"}
    by = figures.shifts_of([{**selection, "mean": 2.0}], design, 2.0)
    # rho = 1/4: delta = 2 x 1/4 x (T + delta / 2) has the solution delta = 4/3 at T = 2
    assert by["selection"] == pytest.approx(4 / 3) and by["selection"] == pytest.approx(0.5 * (2 + by["selection"] / 2))
    assert "default_identity" not in by  # strength itself
    assert "selection" not in figures.shifts_of([{**selection, "mean": -1.0}], design, 2.0)


def test_false_positives_are_counted_over_experiments():
    def view(p, adjusted, verdict, n=16):
        row = {"probe": "selection", "stage": "sft", "match": "dose", "contrast": "delta", "primary": True}
        row |= {"p": p, "p_adjusted": adjusted, "verdict": verdict}
        return {"half": None, "n": n, "match": "dose", "adjusted": True, "verdict": verdict, "rows": [row]}

    made = [view(0.01, 0.06, "undetermined"), view(0.01, 0.04, "broken"), view(0.5, 0.9, "symmetric")]
    made.append(view(None, None, "no-overlap"))  # nothing was tested: it counts as a verdict only
    (of,) = figures.null([{"views": made}], 0.05).values()
    assert (of["significant"]["count"], of["significant"]["of"]) == (1, 4)
    (row,) = of["rows"]
    assert (row["significant"]["count"], row["significant"]["of"]) == (2, 3)
    assert {w: h["count"] for w, h in row["verdicts"].items()} == {
        "broken": 1, "symmetric": 1, "undetermined": 1, "no-overlap": 1,
    }  # fmt: skip


def test_coverage_counts_intervals_that_hold_the_truth(design):
    key = {"probe": "selection", "stage": "sft", "match": "strength", "unit": "logit"}
    means = {"T": [1.0, 3.0], "delta": [0.5, -0.1]}

    def view(low, high):
        rows = [{**key, "contrast": c, "low": low, "high": high} for c in means]
        return {"n": 4, "match": "strength", "adjusted": True, "rows": rows}

    seeds = [{**key, "contrast": c, "means": m} for c, m in means.items()]
    told = figures.coverage([{"views": [view(-1, 1), view(1.5, 2.5)], "seeds": seeds}], design)
    by = {row["contrast"]: row for row in told}
    assert by["T"]["truth"] == 2.0 and by["T"]["covered"]["count"] == 1  # the mean of all seeds, not 0
    assert by["T"]["truth_error"] == pytest.approx(1.0)  # sd of 1 and 3 over the root of 2
    assert by["delta"]["truth"] == 0.0 and by["delta"]["covered"]["count"] == 1


def test_a_demand_fails_only_where_the_exact_interval_lies_above():
    """17 of 200 (R, binom.test: from .0503) is too many at .05, 16 of 200 (from .0464) might be chance."""
    row = {"probe": "selection", "stage": "sft", "match": "strength", "contrast": "delta", "primary": True}
    symmetric = {"symmetric": rate(159, 200)}  # one too few of 80 %

    def made(hits):
        null = {"significant": rate(hits, 200), "rows": [{**row, "significant": rate(9, 200), "verdicts": symmetric}]}
        return checks({"alpha": 0.05, "seeds": [16, 8], "null": {"16": null}})

    assert [check["holds"] for check in made(16)] == [True, True, False]
    assert [check["holds"] for check in made(17)] == [False, True, False]


def test_a_demand_that_nothing_was_tested_for_is_not_made():
    of = {"significant": rate(0, 0), "rows": []}
    assert checks({"alpha": 0.05, "seeds": [16, 8], "null": {"16": of}}) == []
    assert told(rate(0, 0)) == "—"
    assert told(rate(9, 200)) == ".045 [.021, .084] (9 of 200)"


def test_a_plan_of_looks_errs_where_any_of_them_does():
    def looks(*rejects, verdict="symmetric"):
        return [{"seeds": 8 + 4 * k, "rejects": r, "at_alpha": True, "verdict": verdict} for k, r in enumerate(rejects)]

    said = [looks(False, True, False), looks(False, False, False, verdict="broken"), looks(True, True, False)]
    told = planned.figures(said, "pocock")
    assert told["planned"] == [8, 12, 16]
    assert [(told[key]["count"], told[key]["of"]) for key in ("rejects", "at_alpha", "broken")] == [
        (2, 3), (3, 3), (1, 3),
    ]  # fmt: skip
    assert [look["rejects"]["count"] for look in told["by_look"]] == [1, 2, 0]
    assert [look["symmetric"]["count"] for look in told["by_look"]] == [2, 2, 2]


def test_looks_are_whole_numbers_of_seeds_and_end_at_all_of_them():
    assert planned.looks_of(16) == (8, 12, 16) and planned.looks_of(4) == (2, 3, 4) and planned.looks_of(1) == (1,)
