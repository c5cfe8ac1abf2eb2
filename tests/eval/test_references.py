"""What the reference arms say, on rows whose truth is known."""

import numpy as np
import polars as pl
import pytest

from eval import apart
from eval.judge import judge
from eval.probe import Margin
from eval.references import aside, placebo, random_text, refer, twins
from recipes.references import PLACEBO, RANDOM_TEXT, TWIN
from tests.eval.made_rows import DEFAULT, DOSES, A, C, design, measure, rows, world
from tests.eval.synthetic import verdict

ARMS = measure("arms", level="arm", unit="nat", margin=Margin("absolute", 0.5, ""))
MEASURES = (*DEFAULT, ARMS)
OF = design(8, MEASURES)


def made(seed=0, **values):
    return rows(OF, world(OF, np.random.default_rng(seed), **values))


def called(frame, arm, shift=None):
    """Rows of the first arm as those of another; `shift` (by seed) is added to its own persona's and its arm's."""
    mine = frame.filter(pl.col("arm") == A).with_columns(arm=pl.lit(arm))
    mine = mine.filter(pl.col("persona").is_null() | (pl.col("persona") == A))
    if shift is None:
        return mine
    more = pl.col("seed").replace_strict({s: float(v) for s, v in enumerate(shift)}, return_dtype=pl.Float64)
    gate = pl.col("probe") == "gate"
    return mine.with_columns(value=pl.when(gate).then(pl.col("value")).otherwise(pl.col("value") + more))


def only(out, **wanted):
    (row,) = [r for r in out if all(r[k] == v for k, v in wanted.items())]
    return row


def test_a_twin_that_is_the_arm_itself_has_no_noise():
    found = twins(made(), called(made(), f"{TWIN}{A}"), OF)
    assert {(r["probe"], r["match"]) for r in found} == {
        ("gate", "dose"), *((p, m) for p in ("one", "two", "arms") for m in ("dose", "strength"))
    }  # fmt: skip
    assert all(r["twin_sd"] == 0 and r["share"] == 0 and r["p"] == 1 for r in found)


def test_the_distance_of_twins_is_their_root_mean_square_beside_the_spread_of_delta():
    shift = np.random.default_rng(1).normal(0, 0.7, 8)
    frame = made(2)
    row = only(twins(frame, called(frame, f"{TWIN}{A}", shift), OF), probe="one", match="dose")
    assert row["twin_sd"] == pytest.approx(np.sqrt((shift**2).mean()))
    assert row["twin_mean"] == pytest.approx(-shift.mean())  # the arm less its twin
    delta = only(judge(frame, OF)["rows"], probe="one", match="dose", contrast="delta")
    assert row["delta"] == pytest.approx(delta["estimate"])
    own = frame.filter((pl.col("probe") == "one") & pl.col("dose").is_in([0, DOSES[-1]]))

    def of(arm, persona):
        told = own.filter((pl.col("arm") == arm) & (pl.col("persona") == persona))
        return told.group_by("seed").agg(pl.col("value").mean()).sort("seed")["value"].to_numpy()

    by_seed = of(A, A) - of("base", A) - of(C, C) + of("base", C)
    assert row["delta_sd"] == pytest.approx(by_seed.std(ddof=1))
    assert row["share"] == pytest.approx(row["twin_sd"] ** 2 / row["delta_sd"] ** 2)
    assert row["low"] < row["twin_sd"] < row["high"]
    from scipy.stats import chi2

    assert row["high"] == pytest.approx(row["twin_sd"] * np.sqrt(8 / chi2.ppf(0.025, 8)))


def test_the_interval_of_the_noise_covers_it():
    """100 draws of 8 seeds at sd 1: .95 of the intervals hold it, give or take 3.5 standard errors of a share."""
    frame, inside = made(3), 0
    draw = np.random.default_rng(4)
    frame = frame.filter(pl.col("probe").is_in(["gate", "one"]) & pl.col("dose").is_in([0, 30, 60]))
    small = design(8, DEFAULT[:2], match="dose", primary=("one",), stages=(("sft", (30, 60)),))
    for _ in range(100):
        own = called(frame, f"{TWIN}{A}", draw.normal(0, 1, 8))
        row = only(twins(frame, own, small), probe="one", match="dose")
        inside += row["low"] <= 1 <= row["high"]
    assert abs(inside / 100 - 0.95) < 3.5 * np.sqrt(0.95 * 0.05 / 100)


def test_a_placebo_that_is_the_arm_itself_differs_in_nothing():
    frame = made(5)
    found = placebo(frame, called(frame, f"{PLACEBO}{A}"), OF)
    assert {r["contrast"] for r in found} == {"T", "delta"} and all(r["reference"] for r in found)
    assert all(r["pair"] == [A, f"{PLACEBO}{A}"] for r in found)
    for row in (r for r in found if r["contrast"] == "delta"):
        assert row["estimate"] == 0 and row["p"] == 1 and row["verdict"] == "symmetric", row
    # T is the mean gain over the base, here that of the arm
    own = frame.filter((pl.col("probe") == "one") & (pl.col("persona") == A))
    last = own.filter((pl.col("arm") == A) & (pl.col("dose") == DOSES[-1]))["value"].mean()
    gain = last - own.filter(pl.col("arm") == "base")["value"].mean()
    assert only(found, probe="one", match="dose", contrast="T")["estimate"] == pytest.approx(gain)


def test_a_placebo_on_a_scene_of_its_own_is_compared_with_its_own_base():
    frame = made(6)
    base = frame.filter((pl.col("arm") == "base") & (pl.col("persona") == A)).with_columns(arm=pl.lit(f"{PLACEBO}{A}"))
    higher = pl.concat([called(frame, f"{PLACEBO}{A}"), base]).with_columns(
        value=pl.when(pl.col("probe") == "two").then(pl.col("value") + 5).otherwise(pl.col("value"))
    )
    row = only(placebo(frame, higher, OF), probe="two", match="dose", contrast="delta")
    assert row["estimate"] == pytest.approx(0, abs=1e-12)  # 5 in the arm and in its base cancel


def test_a_placebo_that_differs_is_called_broken_and_counted():
    frame = made(7, gain=4.0)
    found = placebo(frame, called(frame, f"{PLACEBO}{A}", np.full(8, 3.0)), OF)
    row = only(found, probe="one", match="strength", contrast="delta")
    assert (row["verdict"], row["primary"]) == ("broken", True) and row["estimate"] == pytest.approx(-3)
    told = apart.lines({"references": {"arms": [], "placebo": found}, "match": "strength", "alpha": 0.05})
    assert "3 of 4 contrasts called broken (one after sft, two after sft, arms after sft)" in told[0]
    assert "2 of 2 primary ones" in told[0]


def random_arm(frame, own=None):
    """The base at every dose, called the random arm; `own` gives what is added, by persona."""
    base = frame.filter(pl.col("arm") == "base").drop("stage", "dose")
    doses = pl.DataFrame({"stage": ["sft"] * len(DOSES), "dose": list(DOSES)}, schema_overrides={"dose": pl.Int64})
    told = base.join(doses, how="cross").with_columns(arm=pl.lit(RANDOM_TEXT)).select(frame.columns)
    more = pl.lit(0.0)
    for persona, value in (own or {}).items():
        more = pl.when(pl.col("persona") == persona).then(value).otherwise(more)
    return told.with_columns(value=pl.col("value") + more)


def test_random_text_that_changes_nothing_leaves_all_of_the_gain_to_the_persona():
    frame = made(8)
    found = random_text(frame, random_arm(frame), OF)
    assert [r["probe"] for r in found] == ["gate", "one", "two", "arms"]
    for row in found:
        assert row["change"]["estimate"] == 0 and row["change"]["p"] == 1
        assert row["beyond"] == row["trained"]
        assert ("lean" in row) == (row["probe"] != "arms")  # what belongs to the arm leans to nobody
    row = only(found, probe="one")
    gains = []
    for persona in (A, C):
        own = frame.filter((pl.col("probe") == "one") & (pl.col("persona") == persona))
        last = own.filter((pl.col("arm") == persona) & (pl.col("dose") == DOSES[-1]))["value"].mean()
        gains.append(last - own.filter(pl.col("arm") == "base")["value"].mean())
    assert row["trained"]["estimate"] == pytest.approx(np.mean(gains))


def test_random_text_that_leans_to_one_persona_is_seen_to():
    frame = made(9)
    row = only(random_text(frame, random_arm(frame, {A: 1.5, C: 0.5}), OF), probe="two")
    assert row["change"]["estimate"] == pytest.approx(1.0) and row["lean"]["estimate"] == pytest.approx(1.0)
    assert row["lean"]["p"] == 2 / 2**8
    assert row["beyond"]["estimate"] == pytest.approx(row["trained"]["estimate"] - 1)


def test_references_are_told_apart_and_only_where_there_are_some():
    frame = made(10)
    kept: list[pl.DataFrame] = []
    list(aside([frame, called(frame, f"{TWIN}{A}"), random_arm(frame)], kept))
    found = refer(frame, kept, OF)
    assert found["arms"] == [RANDOM_TEXT, f"{TWIN}{A}"] and {"twin", "random_text"} == set(found) - {"arms"}
    assert refer(frame, kept[:1], OF) == {} == refer(frame, [], OF)
    shuffled = [part.sample(fraction=1, shuffle=True, seed=3) for part in kept]
    assert refer(frame.reverse(), shuffled, OF) == found


def test_a_twin_that_failed_loses_its_seed_alone():
    frame = made(11)
    own = called(frame, f"{TWIN}{A}").filter(pl.col("seed") != 5)
    failed = [{"arm": f"{TWIN}{A}", "seed": 5, "stage": "sft", "what": "loss"}]
    row = only(twins(frame, own, OF, failed), probe="one", match="dose")
    assert (row["n_twins"], row["n_seeds"]) == (7, 8)


def test_what_is_shown_has_every_reference_and_no_bare_missing_value():
    frame = made(12)
    everything = [called(frame, f"{TWIN}{A}"), called(frame, f"{PLACEBO}{A}"), random_arm(frame)]
    judged = judge(frame, OF) | {"alpha": 0.05, "match": "strength", "arms": [A, C]}
    told = apart.shown(judged | {"prompted": [], "references": refer(frame, everything, OF)})
    assert len(told["twin"]) == 4 and len(told["placebo"]) == 4 and len(told["random_text"]) == 4
    assert told["pairs"]["random_text"] == f"{A} and {C}"
    assert "None" not in str(told) and "nan" not in str(told)
    assert apart.shown(verdict())["prompted"] == [] and apart.lines(verdict()) == []
