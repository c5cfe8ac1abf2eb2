"""An experiment read an arm at a time is judged and reported as one that is read whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from eval import report, summary
from eval.collect import needed
from eval.gather import gather
from eval.judge import judge
from tests.eval import synthetic
from tests.eval.made_rows import DEFAULT, FULL, A, C, design, rows, world

CAST = (A, C, "carol", "dave", "erin")


def by_arm(frame: pl.DataFrame) -> list[pl.DataFrame]:
    return frame.partition_by("arm")


@pytest.fixture(scope="module")
def five():
    of = design(6, FULL, arms=CAST, pairs=tuple((A, other) for other in CAST[1:]))
    return of, rows(of, world(of, np.random.default_rng(3), effect=0.4))


def test_what_no_pair_needs_moves_nothing(five):
    of, frame = five
    kept = needed(frame, of)
    # of persona rows: the base has all five, A's arm all five, each other arm its own and A's
    persona = frame.filter(pl.col("persona").is_not_null())
    per = persona.filter((pl.col("arm") == A) & (pl.col("persona") == A)).height
    base = persona.filter(pl.col("arm") == "base").height
    assert kept.filter(pl.col("persona").is_not_null()).height == base + per * (5 + 4 * 2)
    assert kept.filter(pl.col("persona").is_null()).height == frame.filter(pl.col("persona").is_null()).height
    assert needed(kept, of).height == kept.height
    assert judge(kept, of) == judge(frame, of)


def test_pairs_that_share_no_arm_are_read_alike(five):
    of, frame = five
    of = replace(of, pairs=((C, "dave"), ("erin", "carol")))
    alone = [judge(frame, replace(of, pairs=(pair,)))["rows"] for pair in of.pairs]
    both = judge(needed(frame, of), of)["rows"]
    less = ("p_adjusted", "verdict", "note", "seeds_needed")  # adjusted for two pairs instead of one
    told = [{k: v for k, v in row.items() if k not in less} for row in both]
    assert told == [{k: v for k, v in row.items() if k not in less} for rows in alone for row in rows]


def test_gathering_arm_by_arm_is_gathering_at_once(five):
    of, frame = five
    parts, whole = gather(by_arm(frame), of), gather([frame], of)
    assert parts.means.equals(whole.means) and parts.means.equals(summary.means(frame))
    key = ["arm", "probe", "kind"]
    assert parts.outcomes.sort(key).equals(whole.outcomes.sort(key))
    assert judge(parts.rows, of) == judge(frame, of)


def test_the_report_of_what_was_gathered_is_the_report_of_the_rows():
    frame = synthetic.rows()
    of = design(6, DEFAULT, arms=synthetic.ARMS, pairs=(synthetic.ARMS,))
    given = {"verdict": synthetic.verdict(), "samples": synthetic.samples(), "lock": {}, "matching": []}
    assert report.render(rows=gather(by_arm(frame), of), **given) == report.render(rows=frame, **given)


def test_nothing_to_gather():
    found = gather([], design())
    assert found.rows.is_empty() and found.means.is_empty() and found.outcomes.is_empty()
    assert summary.outcomes(found.outcomes, []) == ({"kinds": [], "rows": []}, [])


def test_twenty_arms_are_judged_in_seconds():
    """Nineteen pairs of six seeds take 0.4 s; a cost that grew with the square of the pairs would take 8."""
    import time

    cast = tuple(f"control-{n:02d}" for n in range(20))
    of = design(6, DEFAULT, arms=cast, pairs=tuple((cast[0], other) for other in cast[1:]))
    frame = rows(replace(of, seeds=(0,)), world(of, np.random.default_rng(0)), items=3)
    frame = pl.concat([frame.with_columns(seed=pl.lit(s, pl.Int64), value=pl.col("value") + s) for s in range(6)])
    started = time.process_time()
    result = judge(frame, of)
    assert time.process_time() - started < 5
    assert len({tuple(r["pair"]) for r in result["rows"]}) == 19
