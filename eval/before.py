"""What the untrained base already holds of a pair.

The base is subtracted from delta and lambda, but that does not take a prior out of them: in the calibration's prior
plants, whose base tells the pair apart in selection, training one persona spills more onto the other, in leakage,
where the base does not tell them apart (docs/METHOD.md, section 10).  So it is told beside a verdict and not computed
away.
"""

from __future__ import annotations

from itertools import product
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from eval.cells import BASE
from eval.contrasts import balanced
from eval.design import Design, Judged
from eval.interval import crossed
from eval.verdicts import Row, differs, number

if TYPE_CHECKING:
    import polars as pl


def before(rows: pl.DataFrame, design: Design) -> list[Row]:
    """Per pair (A, C) and primary measure of a persona m(base, A) - m(base, C), with its crossed interval at 1 - alpha.

    Rows of ``{"pair", "probe", "measure", "unit", "estimate", "low", "high", "sign", "n_seeds", "n_items"}``, where
    `sign` is the persona with the higher value and None where the interval includes 0.
    """
    import polars as pl

    if not {"arm", "persona", "value", "outcome"} <= set(rows.columns):
        return []
    there = (pl.col("arm") == BASE) & (pl.col("outcome") == "ok") & pl.col("value").is_finite()
    found = []
    for judged in (m for m in design.measures if m.level == "persona" and design.is_primary(m)):
        of = rows.filter(there & (pl.col("probe") == judged.probe) & (pl.col("measure") == judged.measure))
        means = of.group_by("persona", "seed", "item").agg(pl.col("value").sort().mean())
        values = {(persona, seed, item): value for persona, seed, item, value in means.iter_rows()}
        items = sorted({item for _, _, item in values})
        for a, c in design.pairs:
            x = np.full((len(design.seeds), len(items)), np.nan)
            for (s, seed), (i, item) in product(enumerate(sorted(design.seeds)), enumerate(items)):
                x[s, i] = values.get((a, seed, item), np.nan) - values.get((c, seed, item), np.nan)
            x = x[np.ix_(*balanced(np.isfinite(x)))]
            if x.size:
                found.append(_row((a, c), judged, x, design.alpha))
    return found


def _row(pair: tuple[str, str], judged: Judged, x: np.ndarray, alpha: float) -> Row:
    estimate = crossed(x)
    low, high = estimate.interval(1 - alpha)
    apart = isfinite(estimate.variance) and differs(estimate, alpha)
    return {
        "pair": list(pair),
        "probe": judged.probe,
        "measure": judged.measure,
        "unit": judged.unit,
        "estimate": number(estimate.mean),
        "low": number(low),
        "high": number(high),
        "sign": pair[0 if estimate.mean > 0 else 1] if apart else None,
        "n_seeds": x.shape[0],
        "n_items": x.shape[1],
    }
