"""What the cast test is made of: the same as pairs have, whatever the order, with what is missing told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from eval import castjudge, castread
from eval.castread import Owns
from eval.gather import gather
from eval.judge import judge
from eval.probe import Margin
from eval.strength import curve, read_all, read_at
from tests.eval import made_rows
from tests.eval.cast_rows import design, experiment, row, world
from tests.eval.made_rows import DOSES, measure


def test_the_first_arms_deviation_is_the_mean_of_its_pairs():
    """The same rows by the code for pairs: deltas of the first arm with each other one, averaged."""
    of, rows = experiment()
    pairs = judge(rows, of)["rows"]
    cast = castjudge.judged(rows, of, pairs)["cast"]
    for found in cast["rows"]:
        wanted = [
            p for p in pairs
            if p["contrast"] == "delta" and all(p[k] == found[k] for k in ("probe", "stage", "match"))
        ]  # fmt: skip
        assert len(wanted) == 5 and found["n_seeds"] == 4 and found["n_items"] == 3
        assert found["estimate"] == pytest.approx(np.mean([p["estimate"] for p in wanted]), abs=1e-12)
        if found["margin"] is not None:
            assert found["margin"] == pytest.approx(np.median([abs(p["margin"]) for p in wanted]))


def test_order_of_rows_characters_and_seeds_changes_no_bit():
    of, rows = experiment()
    rows = rows.with_columns(value=pl.when(pl.int_range(pl.len()) % 97 == 5).then(None).otherwise("value"))
    before = castjudge.judged(rows, of)["cast"]
    assert castjudge.judged(rows.sample(fraction=1, shuffle=True, seed=1), of)["cast"] == before
    arms = (of.arms[0], *reversed(of.arms[1:]))
    other = castjudge.judged(rows, replace(of, arms=arms))["cast"]
    assert [r | {"D": None} for r in other["rows"]] == [r | {"D": None} for r in before["rows"]]
    assert [r["D"] for r in other["rows"]] == [r["D"] for r in before["rows"]]  # a dict: by character
    turned = rows.with_columns(seed=3 - pl.col("seed"))
    assert castjudge.judged(turned, of)["cast"] == before


def test_failed_runs_drop_out_and_are_told():
    of, rows = experiment()
    whole = castjudge.judged(rows, of)["cast"]
    gone = {"arm": "control-03", "seed": 2, "stage": "sft", "what": "loss is not a finite number"}
    rows = rows.filter(~((pl.col("arm") == "control-03") & (pl.col("seed") == 2)))
    found = castjudge.judged(rows, of, failed=[gone])["cast"]
    assert found["losses"][0] == "sft: 1 of 24 runs failed and are left out (control-03 seed 2)"
    assert found["characters"] == list(of.arms)  # three of its four seeds remain
    assert row(found, "one", "dose")["n_seeds"] == 4
    # by hand: D of the first arm is a mean over seeds, in seed 2 of four controls instead of five
    own = castread.owns(rows, of, [gone])
    gain = (own.value[:, :, -1] - own.value[:, :, 0])[..., own.where["one"]].mean(axis=2)
    assert np.isnan(gain[3, 2])
    assert row(found, "one", "dose")["estimate"] == pytest.approx(np.mean(gain[0] - np.nanmean(gain[1:], axis=0)))
    assert row(found, "one", "dose")["D"]["control-05"] != row(whole, "one", "dose")["D"]["control-05"]


def test_a_character_with_fewer_than_half_of_its_seeds_is_no_character_of_the_test():
    of, rows = experiment()
    failed = [{"arm": "control-03", "seed": s, "stage": "sft", "what": "stopped"} for s in (0, 1, 2)]
    found = castjudge.judged(rows, of, failed=failed)["cast"]
    assert "control-03" not in found["characters"] and found["smallest_p"] == 1 / 5
    assert row(found, "one")["D"]["control-03"] is None and row(found, "one")["n_characters"] == 5
    assert any("characters dropped" in said and "control-03" in said for said in found["losses"])
    nobody = [{"arm": "first", "seed": s, "stage": "sft", "what": "stopped"} for s in range(4)]
    found = castjudge.judged(rows, of, failed=nobody)["cast"]
    assert found["verdict"] == "not judged" and found["p"] is None and row(found, "one")["estimate"] is None


def test_items_without_a_value_are_left_out_where_they_lack_and_counted():
    of, rows = experiment(seeds=2)
    hole = (pl.col("arm") == "control-01") & (pl.col("persona") == "control-01") & (pl.col("probe") == "one")
    hole &= (pl.col("item") == "item-1") & (pl.col("seed") == 0) & (pl.col("dose") == DOSES[-1])
    found = castjudge.judged(rows.with_columns(value=pl.when(hole).then(None).otherwise("value")), of)["cast"]
    own = castread.owns(rows, of)
    gain = (own.value[:, :, -1] - own.value[:, :, 0])[..., own.where["one"]]  # [N, S, I]
    gaps = gain[0] - gain[1:]  # [K, S, I]
    wanted = np.mean([gaps[1:].mean(axis=2).sum(axis=0)[s] + (gaps[0, s][[0, 2]] if s == 0 else gaps[0, s]).mean()
                      for s in (0, 1)]) / 5  # fmt: skip
    assert row(found, "one", "dose")["estimate"] == pytest.approx(wanted, abs=1e-12)
    assert row(found, "one", "dose")["missing"] == 1 and row(found, "two", "dose")["missing"] == 0


def test_an_item_needs_all_slots_that_its_run_has_anywhere():
    of, rows = experiment(seeds=2)
    twice = pl.concat([rows, rows.with_columns(slot=pl.lit("other"), value=pl.col("value") + 2.0)])
    assert castread.owns(twice, of).value == pytest.approx(castread.owns(rows, of).value + 1.0, abs=1e-12)
    lost = (pl.col("slot") == "other") & (pl.col("arm") == "first") & (pl.col("dose") == 4) & (pl.col("seed") == 1)
    lost &= (pl.col("item") == "item-2") & (pl.col("probe") == "two")
    value = castread.owns(twice.filter(~lost), of).value
    assert np.isnan(value).sum() == 1 and np.isnan(value[0, 1, 1]).sum() == 1


def test_many_strengths_are_read_as_one_by_one():
    arm = curve(np.array([-1.0, 0.5, 0.4, 2.0, 3.0]))  # the second and third dose are tied
    values = np.random.default_rng(0).normal(size=(5, 2, 3))
    values[3, 1, 2] = np.nan
    at = np.array([-2.0, -1.0, 0.1, 0.45, 2.9, 3.0, 3.1])
    for there in (np.ones(5, dtype=bool), np.array([True, True, True, False, True])):
        found = read_all(arm, values, there, at)
        for k, one in enumerate(at):
            assert np.array_equal(found[k], read_at(arm, values, there, one), equal_nan=True)
        assert np.isnan(found[[0, -1]]).all() and np.isfinite(found[1:-1, 0]).all()


def test_arms_outside_the_pairs_take_part():
    of, rows = experiment()
    two = replace(of, pairs=of.pairs[:2])
    kept = gather([rows.filter(pl.col("arm") == arm) for arm in ("base", *of.arms)], two).rows
    assert castjudge.judged(kept, two)["cast"]["rows"][0]["n_characters"] == 6


def test_an_absolute_measure_of_the_arm_needs_no_base():
    of, rows = experiment(seeds=2)
    arm = measure("chat", level="arm", unit="nat", margin=Margin("absolute", 0.1, ""))
    of = replace(of, measures=(*of.measures, arm))
    extra = made_rows.rows(replace(of, measures=(arm,)), lambda m, a, p, progress, s, i: len(a) + progress + i, items=3)
    found = castjudge.judged(pl.concat([rows, extra]), of)["cast"]
    # "first" has five letters, "control-01" ten
    assert row(found, "chat", "dose")["estimate"] == pytest.approx(-5.0)
    assert row(found, "chat")["estimate"] == pytest.approx(-5.0, abs=0.5)  # progress of an arm is a logit or so


def test_arms_are_read_pair_by_pair_where_one_strength_for_all_does_not_exist():
    """Every neighbour overlaps, the ends do not: who has fewer than half of the others beside it is left out."""
    of = design(20, seeds=2)
    own = world(of, np.random.default_rng(0), run=0.0)
    # the gate of arm k goes from k / 20 x 8 to 4 higher, so the first and the last never meet
    own.value[:, :, :, own.where["gate"]] += (np.arange(20) * 8 / 20)[:, None, None, None]
    own.value[:, :, 0, own.where["gate"]] = np.nan  # the base is no dose
    found = castjudge.of_owns(own, of)
    assert row(found, "one")["verdict"] == "no-overlap"  # the first arm is at the lower end
    assert found["verdict"] == "no-overlap" and row(found, "one", "dose")["p"] is not None
    assert any("cannot be read beside half of the others" in said for said in found["losses"])
    middle = replace(of, arms=(of.arms[10], *of.arms[:10], *of.arms[11:]))
    order = [10, *range(10), *range(11, 20)]
    found = castjudge.of_owns(Owns(own.value[order], own.where), middle)
    assert row(found, "one")["p"] is not None and 10 <= row(found, "one")["n_characters"] < 20
    assert any("characters dropped" in said for said in found["losses"])


def test_whoever_a_probe_lacks_is_left_out_of_all_that_are_tested_with_it():
    """Else its largest deviation would be taken over fewer probes than the first arm's, which favours a finding."""
    of, rows = experiment()
    lack = (pl.col("persona") == "control-02") & (pl.col("arm") == "control-02") & (pl.col("probe") == "one")
    found = castjudge.judged(rows.filter(~lack), of)["cast"]
    assert "control-02" not in found["characters"] and found["smallest_p"] == 1 / 5
    two = row(found, "two")
    assert two["n_characters"] == 5 and two["D"]["control-02"] is not None
    assert any("left out, since another row lacks them (control-02)" in said for said in found["losses"])
