"""What the cast test is made of: every arm's own measures as one array, read at equal dose and at equal strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum, isfinite

import numpy as np
import polars as pl

from eval import casttest
from eval.cells import BASE
from eval.collect import admit, needed, points
from eval.contrasts import balanced
from eval.design import Design, Judged
from eval.failed import Failed, without
from eval.interval import Estimate, crossed
from eval.strength import Curve, common_strength, curve, read_all


@dataclass(frozen=True)
class Owns:
    """m(k, k) of every arm k: `value` [N arms, S seeds, P points, U items of all measures], NaN where missing.

    Point 0 is the base, m(0, k); for a measure of the arm it is not used.  `where`: the items of each measure by the
    name it is judged under.  An item is the mean of its rows; it counts for a run at a point where every slot that the
    run has anywhere was answered.
    """

    value: np.ndarray
    where: Mapping[str, slice]


@dataclass(frozen=True)
class Reading:
    """One row of the cast test.

    `by_seed` D [N, S], `d` [N] its mean over seeds, NaN for a character that has no place in this row; `estimate` of
    the first arm's D with seeds and items as replicates; `strength` at which it was read, `apart` the runs that share
    a range of strength with fewer than half of the others.
    """

    judged: Judged
    stage: str
    dose: int
    match: str
    by_seed: np.ndarray
    d: np.ndarray
    estimate: Estimate | None
    n_items: int
    strength: float | None
    apart: int
    runs: int
    missing: int
    saturated: bool


def wide(design: Design) -> Design:
    """The design with each arm as a pair of its own, so that the rows of every arm's own persona are kept."""
    return replace(design, pairs=(*design.pairs, *((arm, arm) for arm in design.arms)))


def owns(rows: pl.DataFrame, design: Design, failed: Failed = ()) -> Owns:
    """Own measures from measurement rows; `failed` runs have none at their stage and later."""
    heads = tuple(m for m in design.measures if m.headline)
    alone = replace(design, pairs=tuple((arm, arm) for arm in design.arms), measures=heads)
    of_heads = pl.DataFrame([(m.probe, m.measure) for m in heads], schema=["probe", "measure"], orient="row")
    own = needed(without(rows, failed, design), alone).join(of_heads, on=["probe", "measure"], how="semi")
    own = own.filter(pl.col("persona").is_null() | (pl.col("arm") == pl.col("persona")) | (pl.col("arm") == BASE))
    own, _ = admit(own, alone, failed)
    own = own.filter(~((pl.col("arm") == BASE) & pl.col("persona").is_null()))
    own = own.with_columns(arm=pl.coalesce("persona", "arm"), slot=pl.col("slot").fill_null(""))
    names = {(m.probe, m.measure): place for place, m in enumerate(heads)}
    slots = own.select("probe", "measure", "item", "slot").unique()
    order = sorted(slots.rows(), key=lambda key: (names[key[:2]], key[2:]))
    numbered = pl.DataFrame(
        [(*key, n) for n, key in enumerate(order)],
        schema={**dict.fromkeys(("probe", "measure", "item", "slot"), pl.String), "place": pl.Int64}, orient="row",
    )  # fmt: skip
    own = own.join(numbered, on=["probe", "measure", "item", "slot"], how="left")
    codes = [
        own["arm"].replace_strict({arm: n for n, arm in enumerate(design.arms)}, return_dtype=pl.Int64),
        own["seed"].replace_strict({seed: n for n, seed in enumerate(sorted(design.seeds))}, return_dtype=pl.Int64),
        own["point"],
        own["place"],
    ]
    shape = (len(design.arms), len(design.seeds), len(points(design)), max(len(order), 1))
    total, count = _sums(own, np.ravel_multi_index([code.to_numpy() for code in codes], shape), shape)
    return _over_slots(total, count, order, heads)


def _sums(own: pl.DataFrame, flat: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    value = own["value"].to_numpy().astype(float)
    order = np.lexsort((value, flat))  # sums are then the same whatever the order of the rows
    flat, value, copies = flat[order], value[order], own["copies"].to_numpy()[order]
    size = int(np.prod(shape))
    count = np.bincount(flat, copies, size).reshape(shape)
    return np.bincount(flat, copies * value, size).reshape(shape), count


def _over_slots(total: np.ndarray, count: np.ndarray, order: list[tuple], heads: tuple[Judged, ...]) -> Owns:
    asked = (count > 0).any(axis=2, keepdims=True)  # slots that the run has somewhere
    lost = asked & ((count == 0) | ~np.isfinite(total))
    items = list(dict.fromkeys(key[:3] for key in order))
    starts = [next(n for n, key in enumerate(order) if key[:3] == item) for item in items] if order else []
    if not items:
        return Owns(np.full((*total.shape[:3], 0), np.nan), {m.name: slice(0, 0) for m in heads})
    parts = (np.where(lost, 0.0, np.nan_to_num(total)), np.where(lost, 0.0, count), lost.astype(float))
    sums, rows, gone = (np.add.reduceat(part, starts, axis=3) for part in parts)
    value = np.where((rows > 0) & (gone == 0), sums / np.where(rows > 0, rows, 1), np.nan)
    where, at = {}, 0
    for m in heads:
        n = sum(1 for item in items if item[:2] == (m.probe, m.measure))
        where[m.name] = slice(at, at + n)
        at += n
    return Owns(value, where)


def readings(own: Owns, design: Design, first: int = 0) -> list[Reading]:
    """Every headline measure at each stage's last dose, and at equal strength (the gate only at the last dose).

    Equal strength is pairwise, as for pairs: k and j are read in the middle of the range that both went through, and
    D is the mean over j of these differences, so that of the first arm it is the mean of its pairs' deltas.  One
    strength for all does not exist in a large cast: it takes the slowest arm's end above the fastest arm's start.
    """
    out: list[Reading] = []
    heads = [m for m in design.measures if m.headline]
    for stage, (kind, doses) in enumerate(design.stages):
        places = [points(design).index((kind, dose)) for dose in doses]
        last = _terms(own, heads, places[-1:])[:, :, 0]
        at_dose = [np.broadcast_to(last[:, None, s], (len(last), *last[:, s].shape)) for s in range(last.shape[1])]
        out += _read(at_dose, own, heads, design, stage, "dose", None, first, last)
        gate = design.gate
        if gate is not None and own.where[gate.name].start < own.where[gate.name].stop:
            rest = [m for m in heads if not m.gate]
            ranges, strengths = _strengths(own, gate, places, design.gain)
            terms = _terms(own, rest, places)
            of = [own.where[m.name] for m in rest]
            at_strength = [
                _beside(terms[:, s], [row[s] for row in ranges], strengths[s], of) for s in range(last.shape[1])
            ]
            out += _read(at_strength, own, rest, design, stage, "strength", strengths, first, last)
    return out


def _terms(own: Owns, heads: list[Judged], places: list[int]) -> np.ndarray:
    """A's term of delta for every arm, [N, S, D, U]: less the base where the measure belongs to a persona."""
    value = own.value[:, :, places].copy()
    for m in heads:
        if m.level == "persona":
            value[..., own.where[m.name]] -= own.value[:, :, :1, own.where[m.name]]
    return value


def _strengths(own: Owns, gate: Judged, places: list[int], gain: bool) -> tuple[list[list[Curve]], np.ndarray]:
    """Each run's curve by arm and seed, and the strengths [S, N, N] at which two arms are read beside each other.

    `gain`: less the base's.
    """
    value = own.value[:, :, places, own.where[gate.name]]  # [N, S, D, I]
    if gain:
        value = value - own.value[:, :, :1, own.where[gate.name]]
    arms, seeds = value.shape[:2]
    there = np.isfinite(value).any(axis=3, keepdims=True)
    whole = (np.isfinite(value) | ~there).all(axis=2)
    # an item counts where every run that has most of them has it, so that all strengths rest on the same items
    runs = whole.mean(axis=2) >= casttest.HALF
    shared = (whole | ~runs[..., None]).all(axis=0)  # [S, I]
    at = np.full((seeds, arms, arms), np.nan)
    curves: list[list[Curve]] = []
    for k in range(arms):
        curves.append([])
        for s in range(seeds):
            rows = value[k, s][:, shared[s]].tolist() if runs[k, s] else []
            means = [fsum(row) / len(row) if row and all(map(isfinite, row)) else np.nan for row in rows]
            curves[k].append(curve(np.array(means or [np.nan] * len(places))))
    for s in range(seeds):
        for k in range(arms):
            for j in range(k + 1, arms):
                middle = common_strength(curves[k][s], curves[j][s])
                if middle is not None:
                    at[s, k, j] = at[s, j, k] = middle
    return curves, at


def _beside(terms: np.ndarray, curves: list[Curve], at: np.ndarray, measures: list[slice]) -> np.ndarray:
    """Every arm of one seed read where it has the strength of each other one: terms [N, D, U], result [N, N, U]."""
    n, _, items = terms.shape
    result = np.full((n, n, items), np.nan)
    for k in range(n):
        others = np.flatnonzero(np.isfinite(at[k]))
        alike: dict[tuple[bool, ...], list[int]] = {}  # items by the doses at which their measure was taken
        for of in measures:
            doses = tuple(np.isfinite(terms[k][:, of]).any(axis=1).tolist())
            alike.setdefault(doses, []).extend(range(of.start, of.stop))
        for doses, which in alike.items():
            if len(others) and any(doses):
                read = read_all(curves[k], terms[k][:, which], np.array(doses), at[k, others])
                result[k, others[:, None], which] = read
    return result


def _read(
    at: list[np.ndarray], own: Owns, heads: list[Judged], design: Design, stage: int, match: str,
    strengths: np.ndarray | None, first: int, last: np.ndarray,
) -> list[Reading]:  # fmt: skip
    out = []
    kind, doses = design.stages[stage]
    for m in heads:
        of = own.where[m.name]
        n_items = of.stop - of.start
        measured = np.isfinite(last[:, :, of]).sum(axis=2) >= max(casttest.HALF * n_items, 1)
        gaps = np.stack([casttest.differences(np.ascontiguousarray(x[:, :, of])) for x in at], axis=2)
        d = casttest.by_seed(gaps, measured)
        mine = _of_first([x[:, :, of] for x in at], first, np.isfinite(d[first]))
        strength = None
        if strengths is not None and np.isfinite(d[first]).any():
            strength = float(casttest.mean(strengths[np.isfinite(d[first])][:, first].reshape(1, -1))[0])
        out.append(
            Reading(
                judged=m,
                stage=kind,
                dose=doses[-1],
                match=match,
                by_seed=d,
                d=casttest.characters(d),
                estimate=crossed(mine) if mine.size else None,
                n_items=mine.shape[1],
                strength=strength,
                apart=int((measured & ~np.isfinite(d)).sum()),
                runs=int(measured.sum()),
                missing=int((~np.isfinite(last[:, :, of]) & measured[..., None]).sum()),
                saturated=_saturated(m, at, own, first),
            )
        )
    return out


def _of_first(at: list[np.ndarray], first: int, seeds: np.ndarray) -> np.ndarray:
    """The first arm's D by seed and item, x [S', I'], made complete as for pairs."""
    x = np.full((len(at), at[0].shape[2]), np.nan)
    for s, of in enumerate(at):
        if seeds[s]:
            gaps = np.delete(of[first] - of[:, first], first, axis=0)
            x[s] = casttest.mean(gaps.T)
    kept = balanced(np.isfinite(x))
    return x[np.ix_(*kept)]


def _levels(at: list[np.ndarray], own: Owns, judged: Judged) -> np.ndarray:
    """What each arm's own persona shows where it is read, [N, S, I]: the mean over the arms that it is read beside."""
    of = own.where[judged.name]
    beside = np.stack([x[:, :, of] for x in at], axis=1)  # [N, S, N, I]
    there = np.isfinite(beside)
    counted = there.sum(axis=2)
    value = np.where(counted, np.where(there, beside, 0.0).sum(axis=2) / np.maximum(counted, 1), np.nan)
    return value + own.value[:, :, 0, of] if judged.level == "persona" else value  # terms were less the base


def _saturated(judged: Judged, at: list[np.ndarray], own: Owns, first: int) -> bool:
    """Whether choices are at one bound on most items of the first arm and of most others."""
    if judged.gate or not judged.bounded or judged.unit != "logit":
        return False
    value = _levels(at, own, judged)
    if not value.size:
        return False
    bound = np.log(0.98 / 0.02)
    for side in (1, -1):
        most = (side * np.nan_to_num(value) > bound).mean(axis=(1, 2)) > 0.5
        if most[first] and np.delete(most, first).mean() > 0.5:
            return True
    return False
