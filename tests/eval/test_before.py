"""What the base tells apart before training: a known difference, the swap of names, order, what is missing, words."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from eval.before import before
from eval.table import sentence
from tests.eval import synthetic
from tests.eval.made_rows import A, C, design, made, rows

KNOWN = 0.75  # a binary fraction, so that sums of it are exact


def known(judged, arm, persona, progress, seed, item):
    """The base gives A `KNOWN` more than C, more or less by item in a way that averages out."""
    return KNOWN * (persona == A) + (0.25 if item % 2 else -0.25) * (persona == A) + 4 * progress


def test_the_known_difference_of_each_primary_measure_and_nobody_elses() -> None:
    of = design(seeds=8)
    found = before(rows(of, known), of)
    assert [(r["probe"], r["estimate"], r["sign"]) for r in found] == [("one", KNOWN, A), ("two", KNOWN, A)]
    assert all((r["n_seeds"], r["n_items"]) == (8, 4) and r["low"] < KNOWN < r["high"] for r in found)


def test_swap_of_names_negates_and_order_changes_no_bit() -> None:
    of, table = made(3)
    found = before(table, of)
    assert {r["probe"] for r in found} == {"one", "two"}
    assert before(table.sample(fraction=1.0, shuffle=True, seed=1), of) == found
    swapped = replace(of, pairs=tuple((c, a) for a, c in of.pairs))
    for one, other in zip(found, before(table, swapped), strict=True):
        assert (other["estimate"], other["low"], other["high"]) == (-one["estimate"], -one["high"], -one["low"])
        assert one["sign"] == other["sign"]


def test_a_seed_without_a_base_is_left_out_and_one_seed_has_no_sign() -> None:
    of = design(seeds=4)
    table = rows(of, known)
    gone = (pl.col("arm") == "base") & (pl.col("seed") == 2)
    void = table.with_columns(value=pl.when(gone).then(float("nan")).otherwise(pl.col("value")))
    assert [r["n_seeds"] for r in before(void, of)] == [3, 3]
    assert before(table.filter(pl.col("arm") != "base"), of) == [] == before(pl.DataFrame(), of)
    (one, _) = before(table.filter(pl.col("seed") == 0), of)
    assert one["low"] is None and one["sign"] is None


@pytest.mark.parametrize(("sign", "said"), [(C, True), (None, False)])
def test_it_is_told_beside_broken_only(sign, said) -> None:
    verdict = synthetic.verdict()
    pair = list(verdict["arms"])
    known = {"pair": pair, "probe": "selection", "estimate": -1.92, "low": -2.0, "high": -1.84, "sign": sign}
    text = "Before any training the base told apart assistant and kennedy (selection −1.92 [−2.00, −1.84])"
    assert (text in sentence(verdict | {"before": [known]})) == said
    for row in verdict["rows"]:
        row["verdict"] = "symmetric" if row["verdict"] == "broken" else row["verdict"]
    assert "Before any training" not in sentence(verdict | {"verdict": "symmetric", "before": [known]})
