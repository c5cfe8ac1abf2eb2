"""Judging an experiment from its measurement rows alone: every contrast with its interval, its tests, its verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from eval.collect import Grid, admit, grids
from eval.design import Design
from eval.equivalence import share
from eval.failed import Failed, seeds_lost, too_few, without
from eval.interval import Estimate, crossed, seed_means, seed_sd
from eval.looks import Levels, levels_of
from eval.reading import Reading, read, strengths_of
from eval.signflip import benjamini_hochberg, max_t, sign_flip
from eval.verdicts import Decision, Row, decide, differs, moved, number, of_experiment


@dataclass(frozen=True)
class _Line:
    """One contrast of one reading; `x` [S', I'] is None where there is nothing to test."""

    reading: Reading
    contrast: str
    x: np.ndarray | None
    primary: bool
    failed: int = 0  # seeds that the pair lost to runs that diverged


def judge(rows: pl.DataFrame, design: Design, failed: Failed = ()) -> dict[str, Any]:
    """Judge the measurement `rows` (one per item x persona x slot x dose) as `design` says.

    Returns ``{"rows", "verdict", "losses"}``: rows as in verdict.json, the experiment's verdict, and in words what
    was missing, dropped or duplicated.  Per pair, stage and measure T, delta and lambda are read at the last dose
    and at equal strength (the gate only at the last dose).

    p is an exact sign flip over seeds.  p_adjusted of the primary family (primary probes x {delta, lambda} x stages
    at the recipe's match) is max-T within a pair, times the number of pairs (Bonferroni); of every other delta and
    lambda, which is exploratory, Benjamini-Hochberg within the pair.  T has no adjusted p and no verdict.

    `failed`: runs that diverged; their seed is dropped from every pair with that arm, at that stage and later.

    The result does not depend on the order of the rows.  Raises InputError where columns are missing.
    """
    admitted, losses = admit(without(rows, failed, design), design, failed)
    out: list[Row] = []
    for pair in design.pairs:
        lines = list(_lines(grids(admitted, design, pair), design, pair, failed))
        p, adjusted, levels = _tests(lines, design)
        out += [_row(pair, line, p[k], adjusted[k], design, levels[line.primary]) for k, line in enumerate(lines)]
        losses += _said(pair, lines)
    verdicts = [row["verdict"] for row in out if row["primary"]]
    return {"rows": out, "verdict": of_experiment(verdicts), "losses": losses}  # type: ignore[arg-type]


def _lines(of: dict[str, Grid], design: Design, pair: tuple[str, str], failed: Failed) -> Iterable[_Line]:
    gate = design.gate
    for stage in range(len(design.stages)):
        gone = seeds_lost(failed, design, pair, stage)
        strengths = strengths_of(of[gate.name], design, stage) if gate else None
        for judged in design.measures:
            readings = [read(of[judged.name], design, judged, stage, None, gone)]
            if strengths is not None and not judged.gate:
                readings.append(read(of[judged.name], design, judged, stage, strengths, gone))
            for reading in readings:
                for contrast in design.contrasts if judged.level == "persona" else ("delta",):
                    primary = contrast != "T" and reading.match == design.match and design.is_primary(judged)
                    yield _Line(reading, contrast, reading.contrasts.get(contrast), primary, len(gone))


def _tests(lines: list[_Line], design: Design) -> tuple[np.ndarray, np.ndarray, dict[bool, Levels]]:
    """p and p_adjusted of every line, NaN where there is none; the levels of primary lines and of the others."""
    means = np.full((len(design.seeds), len(lines)), np.nan)
    for k, line in enumerate(lines):
        if line.x is not None:
            means[line.reading.seeds, k] = seed_means(line.x)
    there = np.array([line.x is not None for line in lines], dtype=bool)
    levels = levels_of(means[:, there & np.array([line.primary for line in lines], dtype=bool)], design)
    means = means[np.isfinite(means).any(axis=1)]  # a seed that is nowhere has no sign to flip
    p = np.where(there, sign_flip(means), np.nan)
    adjusted = np.full(len(lines), np.nan)
    family = [k for k, line in enumerate(lines) if line.primary and there[k]]
    rest = [k for k, line in enumerate(lines) if not line.primary and line.contrast != "T" and there[k]]
    if family:
        adjusted[family] = np.minimum(max_t(means[:, family]) * len(design.pairs), 1.0)
    if rest:
        adjusted[rest] = benjamini_hochberg(p[rest].tolist())
    return p, adjusted, levels


def _row(pair: tuple[str, str], line: _Line, p: float, p_adjusted: float, design: Design, levels: Levels) -> Row:
    reading, judged, alpha = line.reading, line.reading.judged, design.alpha
    row: Row = {
        "pair": list(pair),
        "probe": judged.name,
        "measure": judged.measure,
        "version": judged.version,
        "stage": reading.stage,
        "dose": reading.dose,
        "match": reading.match,
        "contrast": line.contrast,
        "unit": judged.unit,
        "estimate": None,
        "low": None,
        "high": None,
        "level": 1 - alpha,
        "p": None,
        "p_adjusted": None,
        "margin": None,
        "n_seeds": len(reading.seeds),
        "n_items": reading.n_items,
        "primary": line.primary,
        "verdict": None if line.contrast == "T" else "undetermined",
        "sensitive": judged.sensitive,
        "seed_sd": None,
        "share": None,
        "share_low": None,
        "share_high": None,
        "sign": None,
        "note": "",
        "seeds_needed": None,
        "missing": dict(reading.missing),
        "strength": number(reading.strength),
    }
    if judged.margin.kind == "absolute":
        row["margin"] = float(judged.margin.value)
    if design.looks and line.contrast != "T":
        row |= {"bound": levels.broken, "equivalence_level": levels.symmetric}
    if line.x is None:
        row["note"] = "nothing to read" if reading.overlap else "no common range of strength"
        if line.contrast != "T" and not reading.overlap:
            row["verdict"] = "no-overlap"
        return row
    estimate = crossed(line.x)
    low, high = estimate.interval(1 - alpha)
    row |= {
        "estimate": number(estimate.mean),
        "low": number(low),
        "high": number(high),
        "p": number(p),
        "p_adjusted": number(p_adjusted),
        "seed_sd": number(seed_sd(line.x)),
    }
    favouring = reading.contrasts.get("T")
    if line.contrast == "T":
        row |= {"note": "moved" if moved(estimate, alpha) else "not moved", "margin": None}
        return row
    of_t = crossed(favouring) if favouring is not None else None
    decision = decide(judged, line.x, estimate, favouring, of_t, p_adjusted, alpha, reading.saturated, levels)
    bar = levels.broken / len(design.pairs) if line.primary else levels.broken
    decision = too_few(decision, len(reading.seeds), line.failed, bar)
    row |= _words(pair, line, estimate, decision, alpha)
    if judged.margin.kind == "relative" and favouring is not None:
        row |= dict(zip(("share", "share_low", "share_high"), _share(line.x, favouring, 1 - alpha), strict=True))
    return row


def _words(pair: tuple[str, str], line: _Line, estimate: Estimate, decision: Decision, alpha: float) -> Row:
    sign = None
    if differs(estimate, alpha):
        # lambda > 0: C gained more in A's arm than A in C's arm, so it is C that is favoured
        sign = pair[0] if (estimate.mean > 0) == (line.contrast == "delta") else pair[1]
    return {
        "verdict": decision.verdict,
        "note": decision.note,
        "margin": number(decision.margin),
        "sign": sign,
        "seeds_needed": decision.seeds_needed,
    }


def _share(x: np.ndarray, favouring: np.ndarray, level: float) -> tuple[float | None, ...]:
    """Contrast / T and its interval; the ratio alone where T may be 0."""
    found = share(x, favouring, level)
    if found is not None:
        return tuple(number(value) for value in found)
    t = crossed(favouring).mean
    return (number(crossed(x).mean / t) if t else None, None, None)


def _said(pair: tuple[str, str], lines: list[_Line]) -> list[str]:
    said: dict[str, None] = {}  # a dict keeps the order: one sentence per reading, not one per contrast
    for line in lines:
        reading = line.reading
        where = f"{pair[0]}/{pair[1]}, {reading.judged.name}, {reading.stage} at equal {reading.match}"
        if reading.losses:
            said[f"{where}: {'; '.join(reading.losses)}"] = None
    return list(said)
