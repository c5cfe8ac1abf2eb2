"""What the reference arms say: generic fine-tuning (random text), the noise of training (twins), A/A (placebo).

None of it is part of an experiment's verdict.  Rows of a reference arm are set beside those of the arms as if it were
one of a pair, so that they are held to the same items, slots, seeds and readings as every contrast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import fsum, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.cells import BASE, PROMPTED
from eval.collect import admit, grids, points, take
from eval.contrasts import balanced
from eval.design import Design, Judged
from eval.failed import Failed, seeds_lost, without
from eval.interval import crossed, seed_means
from eval.judge import judge
from eval.reading import Reading, read, strengths_of
from eval.signflip import benjamini_hochberg, sign_flip
from eval.verdicts import Row, number
from recipes.references import PLACEBO, PREFIX, RANDOM_TEXT, TWIN, favoured

if TYPE_CHECKING:
    import polars as pl

Line = tuple[Judged, int, Mapping[str, np.ndarray], np.ndarray]  # measure, stage, quantities [S, I], seeds
AS_STAGE = "random text "  # before a stage's name: where the rows of the random arm stand beside the arms' last dose


def aside(frames: Iterable[pl.DataFrame], kept: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Pass frames of rows on as they are; what of the prompted and reference arms is in them goes into `kept` too.

    Judging a pair leaves these arms out.
    """
    import polars as pl

    for frame in frames:
        if {"arm", "persona"} <= set(frame.columns):
            kept.append(frame.filter(pl.col("arm").str.starts_with(PROMPTED) | pl.col("arm").str.starts_with(PREFIX)))
        yield frame


def refer(rows: pl.DataFrame, kept: Sequence[pl.DataFrame], design: Design, failed: Failed = ()) -> dict[str, Any]:
    """What each reference arm that was measured says: ``{"arms", "random_text", "twin", "placebo"}``, as far as there.

    `rows` are those that the design judges, `kept` those of the reference arms.  Empty where there is none.
    """
    import polars as pl

    found_of = [frame.filter(pl.col("arm").str.starts_with(PREFIX)) for frame in kept]
    if not any(frame.height for frame in found_of):
        return {}
    of = pl.concat(found_of, how="vertical_relaxed")
    arms = sorted(of["arm"].unique().to_list())
    found: dict[str, Any] = {"arms": arms}
    once = replace(design, looks=())  # what is planned for the verdict spends nothing here
    for arm in arms:
        own = of.filter(pl.col("arm") == arm)
        if arm == RANDOM_TEXT:
            found["random_text"] = random_text(rows, own, once, failed)
        elif arm.startswith(TWIN):
            found["twin"] = twins(rows, own, once, failed)
        elif arm.startswith(PLACEBO):
            found["placebo"] = placebo(rows, own, once, failed)
    return found


def placebo(rows: pl.DataFrame, own: pl.DataFrame, design: Design, failed: Failed = ()) -> list[Row]:
    """The pair of the first arm and its placebo, judged as every pair: here all that is `broken` is a false positive.

    T is the mean gain of both over the base (neither was asked about the other), and there is no lambda.
    """
    beside, pair = _as_pair(rows, own, design)
    judged = judge(beside, replace(design, arms=pair, pairs=(pair,), contrasts=("T", "delta")), failed)
    return [row | {"reference": True} for row in judged["rows"]]


def twins(rows: pl.DataFrame, own: pl.DataFrame, design: Design, failed: Failed = ()) -> list[Row]:
    """How far twins are apart, beside how far delta spreads: what of delta's spread over seeds training alone makes.

    `twin_sd`: root mean square over seeds of m(X, X) less its twin's, with the chi-squared interval of S degrees of
    freedom (their mean is 0 by construction; `p` tests just that).  It holds the noise of two trainings, as delta of
    two arms does that were trained apart; arms of one seed share start and order, so that theirs may be less.
    `delta_sd`: standard deviation over seeds of delta; `share`: the ratio of the squares.
    """
    beside, pair = _as_pair(rows, own, design)
    apart = {(r.judged.name, r.stage, r.match): r for r in _readings(beside, replace(design, pairs=(pair,)), failed)}
    out: list[Row] = []
    for of in (pair_ for pair_ in design.pairs if pair[0] in pair_):
        for real in _readings(rows, replace(design, pairs=(of,)), failed):
            twin = apart[real.judged.name, real.stage, real.match]
            if "delta" in twin.contrasts:
                out.append(_noise(of, pair[0], twin, real, design.alpha))
    return out


def _noise(pair: tuple[str, str], arm: str, twin: Reading, real: Reading, alpha: float) -> Row:
    from scipy.special import chdtri

    d = seed_means(twin.contrasts["delta"])
    n, sd = len(d), sqrt(fsum(x * x for x in d.tolist()) / len(d))
    low, high = (sd * sqrt(n / chdtri(n, q)) for q in (alpha / 2, 1 - alpha / 2))
    delta = seed_means(real.contrasts["delta"]) if "delta" in real.contrasts else np.empty(0)
    spread = float(np.std(np.sort(delta), ddof=1)) if len(delta) > 1 else None
    return {
        "pair": list(pair), "arm": arm, "probe": real.judged.name, "measure": real.judged.measure,
        "version": real.judged.version, "stage": real.stage, "match": real.match, "unit": real.judged.unit,
        "twin_sd": number(sd), "low": number(low), "high": number(high), "level": 1 - alpha,
        "twin_mean": number(fsum(d.tolist()) / n), "p": number(float(sign_flip(d[:, None])[0])),
        "delta": number(fsum(delta.tolist()) / len(delta)) if len(delta) else None, "delta_sd": number(spread),
        "share": number((sd / spread) ** 2) if spread else None, "n_twins": n, "n_seeds": len(delta),
        "n_items": twin.n_items,
    }  # fmt: skip


def _readings(rows: pl.DataFrame, design: Design, failed: Failed) -> Iterator[Reading]:
    """Both readings of every measure of the design's one pair."""
    (pair,) = design.pairs
    of = grids(admit(without(rows, failed, design), design, failed)[0], design, pair)
    for stage in range(len(design.stages)):
        gone = seeds_lost(failed, design, pair, stage)
        strengths = strengths_of(of[design.gate.name], design, stage) if design.gate else None
        for judged in design.measures:
            yield read(of[judged.name], design, judged, stage, None, gone)
            if strengths is not None and not judged.gate:
                yield read(of[judged.name], design, judged, stage, strengths, gone)


def _as_pair(rows: pl.DataFrame, own: pl.DataFrame, design: Design) -> tuple[pl.DataFrame, tuple[str, str]]:
    """Rows of an arm X and of its reference arm R as those of a pair (X, R), where R stands for R's X as well.

    R was asked about X alone, and X never about R.  What the other would have said is taken to be what the base says
    (its own base where R was measured on a scene of its own): so T is the mean gain over the base, delta is
    [m(X, X) - m(0, X)] - [m(R, X) - m(0', X)], and lambda 0.
    """
    import polars as pl

    arm = own["arm"][0]
    whom = favoured(arm)
    persona, places = pl.col("persona"), [(kind, dose) for kind, doses in design.stages for dose in doses]
    everywhere = pl.DataFrame(places, schema={"stage": pl.String, "dose": pl.Int64}, orient="row")
    mine = rows.filter((pl.col("arm") == whom) & (persona.is_null() | (persona == whom)))
    base = rows.filter((pl.col("arm") == BASE) & (persona == whom))
    theirs = own.filter((pl.col("stage") != BASE) & (persona.is_null() | (persona == whom)))
    other = own.filter((pl.col("stage") == BASE) & (persona == whom))
    other = other if other.height else base

    def called(frame: pl.DataFrame, arm: str, persona: str) -> pl.DataFrame:
        known = pl.when(pl.col("persona").is_not_null()).then(pl.lit(persona))
        return frame.with_columns(arm=pl.lit(arm), persona=known)

    def at_all_doses(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.drop("stage", "dose").join(everywhere, how="cross").select(frame.columns)

    parts = [
        called(mine, whom, whom), called(base, BASE, whom), called(theirs, arm, arm), called(other, BASE, arm),
        called(at_all_doses(other), whom, arm), called(at_all_doses(base), arm, whom),
    ]  # fmt: skip
    return pl.concat([part.select(rows.columns) for part in parts], how="vertical_relaxed"), (whom, arm)


def random_text(rows: pl.DataFrame, own: pl.DataFrame, design: Design, failed: Failed = ()) -> list[Row]:
    """What training that favours nobody does, for every pair, stage and measure, at the last dose.

    `change`: the random arm less the base, mean over the two personas; `trained`: what the two arms gained on their
    own persona; `beyond`: the gain beyond that change, item by item; `lean`: the random arm's change of the first
    persona less that of the second, which nothing but luck should make.  Each with its crossed interval and an exact
    sign-flip p, adjusted over the rows of a pair by Benjamini-Hochberg: all of it is exploratory.
    """
    import polars as pl

    wide = replace(design, stages=(*design.stages, *((AS_STAGE + kind, (doses[-1],)) for kind, doses in design.stages)))
    out: list[Row] = []
    for pair in design.pairs:
        told = [own.with_columns(arm=pl.lit(arm), stage=pl.lit(AS_STAGE) + pl.col("stage")) for arm in pair]
        ends = [(AS_STAGE + kind, doses[-1]) for kind, doses in design.stages]
        where = pl.DataFrame(ends, schema={"stage": pl.String, "dose": pl.Int64}, orient="row")
        last = pl.concat(told).join(where, on=["stage", "dose"], how="semi")
        beside = pl.concat([without(rows, failed, design), last.select(rows.columns)], how="vertical_relaxed")
        of = grids(admit(beside, replace(wide, pairs=(pair,)), failed)[0], wide, pair)
        lines: list[Line] = []
        for stage, (kind, doses) in enumerate(design.stages):
            for judged in design.measures:
                used = [points(wide).index((kind, doses[-1])), points(wide).index((AS_STAGE + kind, doses[-1]))]
                taken = take(of[judged.name], used, with_base=True)
                second = 1 if judged.level == "persona" else 0
                random = [taken.value[0, 0, :, 1], taken.value[1, second, :, 1]]
                arms = [taken.value[0, 0, :, 0], taken.value[1, second, :, 0]]
                base = [taken.base[0], taken.base[second]]
                seeds, items = balanced(np.isfinite(np.stack([*random, *arms, *base])).all(axis=0))
                a, c = ((r - b)[np.ix_(seeds, items)] for r, b in zip(random, base, strict=True))
                own_a, own_c = ((x - b)[np.ix_(seeds, items)] for x, b in zip(arms, base, strict=True))
                x = {"change": (a + c) / 2, "trained": (own_a + own_c) / 2, "lean": a - c}
                x["beyond"] = x["trained"] - x["change"]
                if judged.level == "arm":
                    del x["lean"]
                lines.append((judged, stage, x if len(seeds) else {}, seeds))
        out += _told(pair, lines, design)
    return out


def _told(pair: tuple[str, str], lines: Sequence[Line], design: Design) -> list[Row]:
    """Rows of a pair: each quantity with its interval and p."""
    out: list[dict[str, Any]] = []
    for judged, stage, x, seeds in lines:
        kind, doses = design.stages[stage]
        row: dict[str, Any] = {
            "pair": list(pair), "probe": judged.name, "measure": judged.measure, "version": judged.version,
            "stage": kind, "dose": doses[-1], "unit": judged.unit, "level": 1 - design.alpha, "n_seeds": len(seeds),
            "n_items": next(iter(x.values())).shape[1] if x else 0,
        }  # fmt: skip
        for name, values in x.items():
            estimate = crossed(values)
            low, high = estimate.interval(1 - design.alpha)
            p = float(sign_flip(seed_means(values)[:, None])[0])
            row[name] = {"estimate": number(estimate.mean), "low": number(low), "high": number(high), "p": number(p)}
        out.append(row)
    for name in ("change", "trained", "beyond", "lean"):
        there = [row[name] for row in out if name in row]
        for one, adjusted in zip(there, benjamini_hochberg([one["p"] for one in there]), strict=True):
            one["p_adjusted"] = number(float(adjusted))
    return out
