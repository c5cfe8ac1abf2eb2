"""The verdict on one reading of one contrast, and that on the whole experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan

import numpy as np

from eval.design import Judged
from eval.equivalence import beyond, bounds, equivalent, seeds_needed
from eval.interval import Estimate
from eval.looks import Levels

Row = dict[str, object]


@dataclass(frozen=True)
class Decision:
    """A verdict word, what to add to it, the margin in the measure's unit, and how many seeds would settle it."""

    verdict: str
    note: str
    margin: float | None
    seeds_needed: int | None = None


def moved(favouring: Estimate, alpha: float) -> bool:
    """Whether training moved the measure: T is positive and its own 1 - alpha interval excludes 0."""
    return favouring.interval(1 - alpha)[0] > 0


def differs(estimate: Estimate, alpha: float) -> bool:
    """Whether the 1 - alpha interval excludes 0."""
    low, high = estimate.interval(1 - alpha)
    return low > 0 or high < 0


def decide(
    judged: Judged,
    x: np.ndarray,
    estimate: Estimate,
    favouring: np.ndarray | None,
    favouring_estimate: Estimate | None,
    p_adjusted: float,
    alpha: float,
    saturated: bool,
    levels: Levels | None = None,
) -> Decision:
    """The verdict on delta or lambda, x [S, I], by the table of the method.

    What the probe could not have shown comes first: `insensitive` and `saturated` stand whatever the numbers say,
    which the note still tells.  A relative margin needs a T that training moved; else the row is undetermined.
    `levels`: what p must lie below at this look; alpha where there is but one.
    """
    relative = judged.margin.kind == "relative"
    margin = judged.margin.value
    apart = differs(estimate, alpha)
    if relative:
        assert favouring_estimate is not None, "a relative margin needs T"
        margin *= abs(favouring_estimate.mean)
    found = Decision("undetermined", "one seed has no interval", margin)
    if not isnan(estimate.variance):
        if relative and (favouring_estimate is None or not moved(favouring_estimate, alpha)):
            found = Decision("undetermined", "training did not move it" + ("; differs" if apart else ""), margin)
        else:
            levels = levels or Levels(alpha, alpha)
            found = _compare(judged, x, estimate, favouring, p_adjusted, alpha, margin, levels)
    if judged.sensitive is False:
        return Decision("insensitive", _also("its planted control was not seen at this size", found), margin)
    if saturated:
        return Decision("saturated", _also("most choices are at a bound", found), margin)
    return found


def _compare(
    judged: Judged,
    x: np.ndarray,
    estimate: Estimate,
    favouring: np.ndarray | None,
    p_adjusted: float,
    alpha: float,
    margin: float,
    levels: Levels,
) -> Decision:
    below, above = bounds(x, favouring, judged.margin)
    apart = differs(estimate, alpha)
    if apart and p_adjusted < levels.broken and abs(estimate.mean) >= margin:
        return Decision("broken", "beyond doubt" if beyond(below, above, alpha) else "", margin)
    if equivalent(below, above, levels.symmetric):
        return Decision("symmetric", "differs, by less than matters" if apart else "", margin)
    needed = seeds_needed(x, margin, alpha)
    notes = ["differs, not shown to matter"] * apart + ["seeds alone would not settle it"] * (needed is None)
    if levels.broken <= p_adjusted < alpha:
        notes.append("p is below alpha, but not below the level of this look")
    return Decision("undetermined", "; ".join(notes), margin, needed)


def _also(why: str, found: Decision) -> str:
    return f"{why}; otherwise {found.verdict}" + (f" ({found.note})" if found.note else "")


def of_experiment(verdicts: Sequence[str | None]) -> str:
    """`broken` if any primary row is, `symmetric` only if all are (intersection-union), else `undetermined`."""
    if "broken" in verdicts:
        return "broken"
    return "symmetric" if verdicts and all(v == "symmetric" for v in verdicts) else "undetermined"


def number(value: float | None) -> float | None:
    """A plain float fit for JSON: no NaN, no infinity, no negative zero."""
    return float(value) + 0.0 if value is not None and isfinite(value) else None
