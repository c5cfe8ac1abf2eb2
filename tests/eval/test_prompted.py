"""Trained against prompted at equal strength, on rows whose truth is known."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.judge import judge
from eval.probe import Margin
from eval.prompted import FIRST, compare
from eval.references import aside
from tests.eval.made_rows import DEFAULT, A, C, design, measure, rows

STICKY = measure("stickiness")
MEASURES = (
    *DEFAULT,
    STICKY,
    measure("one.more", "one"),
    measure("arms", level="arm", margin=Margin("absolute", 0.5, "")),
)


def linear(drawn: np.random.Generator, excess: float = 0.0, spread: float = 0.0):
    """A world in which every measure is a straight line over strength, so that interpolation is exact.

    Prompted arms (progress written as 10 + progress) have `excess` less of their own persona, give or take `spread`
    per seed.
    """
    luck: dict = {}

    def value(judged, arm, persona, progress, seed, item):
        prompted, progress = progress >= 10, progress % 10
        own = arm == persona
        if judged.gate:
            return -2.0 + (8.0 if own else -1.0) * progress
        slope = luck.setdefault((judged.name, arm, persona, seed, item), drawn.normal(3.0 if own else -1.0, 0.5))
        start = luck.setdefault((judged.name, persona, seed, item), drawn.normal())
        less = excess + spread * luck.setdefault((judged.name, seed), drawn.normal())
        return start + slope * progress - (less if prompted and own else 0.0)

    return value


def both(of, value, at=0.5, **how):
    """Rows of the arms, and of the prompted arms, which have what training has at progress `at`."""
    one = design(len(of.seeds), of.measures, stages=(("sft", (1,)),))
    speed = at if isinstance(at, dict) else dict.fromkeys(of.arms, at)
    told = rows(one, value, speed={arm: 10 + p for arm, p in speed.items()}, **how)
    told = told.filter(pl.col("arm") != "base").with_columns(
        arm="prompted/" + pl.col("arm"), stage=pl.lit("base"), dose=pl.lit(0, pl.Int64)
    )
    return rows(of, value, **how), told


def found(out, probe, stage="sft"):
    (row,) = [r for r in out if (r["probe"], r["stage"]) == (probe, stage)]
    return row


def test_what_the_prompt_makes_too_is_no_difference():
    of = design(8, MEASURES)
    out = compare(*_as_list(both(of, linear(np.random.default_rng(0)))), of)
    assert [r["probe"] for r in out] == ["stickiness", "one", "two"]  # first ones first; no gate, arm or second measure
    for row in out:
        assert row["estimate"] == pytest.approx(0, abs=1e-12)  # a straight line, so nothing but rounding
        assert row["verdict"] == "symmetric" and row["note"] == ""
        assert row["trained"] == pytest.approx(row["prompted"]) and row["trained"] > 1  # T = (3 + 1) x .5 about
        assert row["strength"] == pytest.approx(2.0)  # -2 + 8 x .5
        assert row["n_seeds"] == 8 and row["exploratory"] == (row["probe"] not in FIRST)


def _as_list(pair):
    return pair[0], [pair[1]]


@pytest.mark.parametrize("excess", [1.0, -1.0])
def test_what_training_makes_beyond_the_prompt_is_found_with_its_sign(excess):
    of = design(8, MEASURES)
    row = found(compare(*_as_list(both(of, linear(np.random.default_rng(1), excess, 0.1))), of), "stickiness")
    assert row["verdict"] == "broken" and row["p"] == 2 / 2**8
    # the spread of .1 over 8 seeds leaves .1 / sqrt(8) = .035 of it; four of those are luck enough
    assert row["estimate"] == pytest.approx(excess, abs=0.15)
    assert ("trained" if excess > 0 else "prompted") in row["note"]
    assert row["low"] < row["estimate"] < row["high"]


def test_a_seed_whose_arm_never_was_as_firm_is_left_out_and_most_of_them_are_no_overlap():
    of = design(8, MEASURES)
    trained, told = both(of, linear(np.random.default_rng(2)))
    firm = (pl.col("probe") == "gate") & (pl.col("persona") == A) & (pl.col("arm") == f"prompted/{A}")

    def beyond(seeds):
        return told.with_columns(value=pl.when(firm & (pl.col("seed") < seeds)).then(99.0).otherwise(pl.col("value")))

    some = found(compare(trained, [beyond(3)], of), "one")
    assert (some["n_seeds"], some["missing"]["without_overlap"]) == (5, 3)
    most = found(compare(trained, [beyond(5)], of), "one")  # 3 of 8 left, fewer than half: a selection
    assert (most["verdict"], most["n_seeds"], most["estimate"]) == ("no-overlap", 0, None)
    assert "5 seeds" in most["note"]


def test_a_stage_begins_where_it_starts_and_not_at_its_first_dose():
    of = design(6, MEASURES, stages=(("sft", (4, 8, 15)), ("dpo", (3, 6, 12))))
    value = linear(np.random.default_rng(3))
    # progress: SFT at 1/6, 2/6, 3/6, DPO at 4/6, 5/6, 1
    early = compare(*_as_list(both(of, value, at=0.1)), of)  # between the base and the first dose
    assert found(early, "one", "sft")["n_seeds"] == 6 and found(early, "one", "dpo")["verdict"] == "no-overlap"
    between = compare(*_as_list(both(of, value, at=0.6)), of)  # between the last dose of SFT and the first of DPO
    assert found(between, "one", "dpo")["estimate"] == pytest.approx(0, abs=1e-12)
    assert found(between, "one", "sft")["verdict"] == "no-overlap"


def test_turning_the_pair_round_and_the_order_of_rows_change_no_bit():
    of = design(6, MEASURES)
    trained, told = both(of, linear(np.random.default_rng(4), 0.3, 0.5), at={A: 0.4, C: 0.7})
    out = compare(trained, [told], of)
    turned = compare(trained, [told], design(6, MEASURES, pairs=((C, A),)))
    assert [r | {"pair": 0} for r in out] == [r | {"pair": 0} for r in turned]
    shuffled = compare(trained.sample(fraction=1, shuffle=True, seed=1), [told.reverse()], of)
    assert out == shuffled


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 5))
def test_against_an_implementation_of_its_own(seed, seeds, items):
    """Straight lines, so linear interpolation; sums written out; the two-way variance by its definition."""
    of = design(seeds, (*DEFAULT, STICKY))
    value = linear(np.random.default_rng(seed), 0.4, 0.3)
    at = {A: 0.45, C: 0.65}  # neither on a dose: those are at .2, .4, .6, .8, 1
    row = found(compare(*_as_list(both(of, value, at=at, items=items)), of), "stickiness")

    def m(arm, persona, prompted):
        ask = [[value(STICKY, arm, persona, at[arm] + 10 * prompted, s, i) for i in range(items)] for s in range(seeds)]
        return np.array(ask)

    ts = [(m(A, A, p) - m(C, A, p) + m(C, C, p) - m(A, C, p)) / 2 for p in (False, True)]
    x = ts[0] - ts[1]
    assert row["estimate"] == pytest.approx(x.mean(), abs=1e-10)
    assert (row["trained"], row["prompted"]) == (pytest.approx(ts[0].mean()), pytest.approx(ts[1].mean()))
    assert row["margin"] == pytest.approx(0.25 * abs((ts[0] + ts[1]).mean() / 2))
    means = x.mean(axis=1)
    flips = [abs(np.dot(signs, means)) for signs in product((1, -1), repeat=seeds)]
    assert row["p"] == pytest.approx(np.mean([flip >= abs(means.sum()) - 1e-9 for flip in flips]))
    by_seed, by_item = items * x.mean(1).var(ddof=1), seeds * x.mean(0).var(ddof=1)
    rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    total = by_seed + by_item - (rest**2).sum() / ((seeds - 1) * (items - 1))
    total = total if total > 0 else max(by_seed, by_item)
    from scipy.stats import t

    half = (row["high"] - row["low"]) / 2
    # the degrees of freedom lie between the floor and all that there are
    least, most = t.ppf(0.975, seeds * items), t.ppf(0.975, min(seeds, items) - 1)
    assert least - 1e-9 <= half / np.sqrt(total / x.size) <= most + 1e-9


def test_a_failed_run_takes_its_seed_along():
    of = design(8, MEASURES)
    trained, told = both(of, linear(np.random.default_rng(5)))
    failed = [{"arm": A, "seed": 2, "stage": "sft", "what": "loss"}]
    assert found(compare(trained, [told], of, failed), "one")["n_seeds"] == 7


def test_without_prompted_rows_there_is_nothing_to_read_and_without_a_gate_no_row():
    of = design(4, MEASURES)
    trained, told = both(of, linear(np.random.default_rng(6)))
    for row in compare(trained, [told.clear()], of):
        assert (row["verdict"], row["note"], row["p"]) == ("undetermined", "nothing to read", None)
    assert compare(trained, [told], design(4, MEASURES[1:], match="dose")) == []


def test_one_seed_and_missing_values_give_no_verdict_and_no_nan():
    of = design(1, MEASURES)
    (row, *_) = compare(*_as_list(both(of, linear(np.random.default_rng(7)))), of)
    assert row["verdict"] == "undetermined" and row["low"] is None and row["estimate"] is not None
    of = design(6, MEASURES)
    trained, told = both(of, linear(np.random.default_rng(8)))
    gone = told.with_columns(value=pl.when(pl.col("item") == "item-1").then(None).otherwise(pl.col("value")))
    row = found(compare(trained, [gone], of), "one")
    assert row["n_items"] == 3 and row["missing"]["items"] == 1


def test_rows_set_aside_leave_the_judging_as_it_was():
    of = design(6, MEASURES)
    trained, told = both(of, linear(np.random.default_rng(9)))
    kept: list[pl.DataFrame] = []
    passed = list(aside([trained, told], kept))
    assert judge(pl.concat(passed), of) == judge(pl.concat([trained, told]), of)
    assert [frame.height for frame in kept] == [0, told.height]


def test_the_false_positives_of_the_line_stay_near_alpha():
    """120 experiments of 6 seeds without a difference: at alpha .05 and a smallest p of 2 / 2^6 = .031 about 4 are
    significant; more than 11 would have a probability below .002 even at .05."""
    of = design(6, (DEFAULT[0], STICKY), primary=("stickiness",))
    hits = 0
    for seed in range(120):
        row = found(
            compare(*_as_list(both(of, linear(np.random.default_rng(seed), 0.0, 1.0), items=2)), of), "stickiness"
        )
        hits += row["p_adjusted"] < 0.05
    assert hits <= 11


def test_looks_spend_alpha_on_this_line_too():
    """At the first of two looks p must lie below less than alpha, so that the two together spend no more."""
    value = linear(np.random.default_rng(1), 1.0, 0.1)
    once, first = design(6, MEASURES), design(6, MEASURES, looks=(6, 12))
    trained, told = both(once, value)
    row = found(compare(trained, [told], once), "stickiness")
    early = found(compare(trained, [told], first), "stickiness")
    # six seeds can reach 2 / 2^6 = .031: below .05, above what Pocock spends on the first of two looks (about .03)
    assert (row["verdict"], early["verdict"]) == ("broken", "undetermined") and row["p"] == early["p"] == 2 / 2**6


def test_the_whole_path_of_a_run_is_read_where_each_arm_got_and_stays_exploratory():
    of = design(6, MEASURES, stages=(("sft", (4, 8, 15)), ("dpo", (3, 6, 12))))
    # the first arm's prompt is reached in SFT (its end is at .5), the second's in DPO: no stage has both
    out = compare(*_as_list(both(of, linear(np.random.default_rng(12), 0.7), at={A: 0.3, C: 0.8})), of)
    assert all(
        found(out, probe, stage)["verdict"] == "no-overlap" for probe in ("one", "two") for stage in of_kinds(of)
    )
    row = found(out, "stickiness", "run")
    assert row["n_seeds"] == 6 and row["exploratory"] and row["estimate"] == pytest.approx(0.7)
    assert row["strength"] == pytest.approx(-2 + 8 * 0.55)  # the mean of both prompts


def of_kinds(of):
    return [kind for kind, _ in of.stages]
