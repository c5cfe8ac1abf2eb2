"""Rows of an experiment read an arm at a time: what is judged is kept, the rest only counted and averaged.

With 64 arms every cell is asked about 64 personas, 17 million rows in all; a pair's contrasts need two of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval import summary
from eval.castread import wide
from eval.collect import needed
from eval.design import Design

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Gathered:
    """`rows` that the design judges, and of all rows their `means` and `outcomes` as `eval.summary` has them."""

    rows: pl.DataFrame
    means: pl.DataFrame
    outcomes: pl.DataFrame


def gather(frames: Iterable[pl.DataFrame], design: Design) -> Gathered:
    """Go once through the rows of all arms; no arm, seed, stage and dose may be spread over several frames."""
    import polars as pl

    rows, means, outcomes = [], [], []
    for frame in frames:
        rows.append(needed(frame, wide(design)))
        means.append(summary.means(frame))
        outcomes.append(summary.outcome_counts(frame))
    if not rows:
        rows, means, outcomes = [pl.DataFrame()], [summary.means(pl.DataFrame())], []
    return Gathered(
        pl.concat(rows, how="vertical_relaxed"),
        summary.in_order(pl.concat(means, how="vertical_relaxed")),
        pl.concat(outcomes, how="vertical_relaxed") if outcomes else summary.outcome_counts(pl.DataFrame()),
    )
