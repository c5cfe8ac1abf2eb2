"""Judging incomplete experiments: what is lost is counted and said, never silent."""

from __future__ import annotations

import polars as pl
import pytest

from eval.collect import admit
from eval.judge import judge
from tests.eval.made_rows import A, C, made, row


def test_missing_rows_nan_and_seeds_are_counted_and_said() -> None:
    of, table = made(12)
    hole = (pl.col("seed") == 2) & (pl.col("item") == "item-1") & (pl.col("arm") == A) & (pl.col("dose") == 60)
    one = pl.col("measure") == "one"
    result = judge(table.with_columns(value=pl.when(hole & one).then(float("nan")).otherwise(pl.col("value"))), of)
    found = row(result, "one", "delta", "dose")
    assert (found["n_seeds"], found["n_items"]) == (8, 3) and found["missing"] == {"rows": 2, "items": 1, "seeds": 0}
    assert "one.one: 2 rows without a value (no number)" in result["losses"]
    assert any("one, sft at equal dose" in s and "1 of 4 items (item-1)" in s for s in result["losses"])
    assert row(result, "two", "delta", "dose")["n_items"] == 4
    unparsed = table.with_columns(
        value=pl.when(hole).then(None).otherwise(pl.col("value")),
        outcome=pl.when(hole).then(pl.lit("unparsed")).otherwise(pl.col("outcome")),
    )
    assert any("(unparsed)" in s for s in judge(unparsed, of)["losses"])
    result = judge(table.filter(~((pl.col("arm") == C) & (pl.col("seed") == 5))), of)
    assert f"{C}, sft: no rows of seed 5" in result["losses"]
    assert row(result, "one", "delta")["n_seeds"] == 7 and result["verdict"] == "symmetric"
    result = judge(table.filter(pl.col("arm") != "base"), of)
    assert row(result, "one", "delta")["estimate"] is None and row(result, "one.arm", "delta")["estimate"] is not None
    assert result["verdict"] == "undetermined" and "base, base: no rows of any seed" in result["losses"]
    result = judge(table.clear(), of)
    assert result["verdict"] == "undetermined" and len(result["losses"]) > 0


def test_unanswered_slot_leaves_both_arms() -> None:
    """A slot that one arm did not answer would otherwise be compared with nothing."""
    of, table = made(13)
    second = table.with_columns(slot=pl.lit("other"), value=pl.col("value") + 100)
    both = pl.concat([table, second])
    hole = (pl.col("slot") == "other") & (pl.col("arm") == A) & (pl.col("item") == "item-0")
    result = judge(both.with_columns(value=pl.when(hole).then(None).otherwise(pl.col("value"))), of)
    for contrast in ("T", "delta", "lambda"):
        assert row(result, "one", contrast, "dose")["estimate"] == pytest.approx(
            row(judge(table, of), "one", contrast, "dose")["estimate"], abs=1e-9
        )
        assert row(result, "one", contrast, "dose")["n_items"] == 4


def test_duplicates_count_once_and_are_said() -> None:
    of, table = made(14)
    result = judge(table, of)
    again = judge(pl.concat([table, table.head(37)]), of)
    assert again["rows"] == result["rows"] and "37 rows left out: duplicates of another row" in again["losses"]
    doubled = judge(pl.concat([table, table]), of)
    assert doubled["rows"] == result["rows"]
    paraphrases = pl.concat([table, table, table.with_columns(value=pl.col("value") + 3)])
    assert admit(paraphrases, of)[0]["copies"].sum() == paraphrases.height


def test_what_the_design_does_not_know_is_left_out_and_said() -> None:
    of, table = made(15)
    strange = [
        pl.lit(9).alias("seed"),
        pl.lit("another").alias("measure"),
        pl.lit(2, pl.Int64).alias("version"),
        pl.lit(7).cast(pl.Int64).alias("dose"),
    ]
    extra = [
        table.filter(pl.col("arm") == A).head(5).with_columns(one.cast(table.schema[one.meta.output_name()]))
        for one in strange
    ]
    result = judge(pl.concat([table, *extra]), of)
    assert result["rows"] == judge(table, of)["rows"] and sum("5 rows left out" in s for s in result["losses"]) == 4
