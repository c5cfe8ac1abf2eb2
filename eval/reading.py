"""One reading: the contrasts of a pair in one measure at one stage, at equal dose or at equal strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

import numpy as np

from eval.collect import Grid, Taken, points, take
from eval.contrasts import Quantities, balanced
from eval.design import Design, Judged
from eval.strength import Curve, common_strength, curve, read_at

Match = Literal["dose", "strength"]


@dataclass(frozen=True)
class Strengths:
    """Curves of both arms by seed, and the strength at which a seed is read (NaN: no common range), of one stage."""

    curves: tuple[tuple[Curve, ...], tuple[Curve, ...]]
    at: np.ndarray


@dataclass(frozen=True)
class Reading:
    """What the tests need.  `contrasts` x [S', I'] by name, empty where there is nothing to read or no overlap.

    `seeds` are indices into the sorted seeds of the design, `missing` counts rows, items and seeds that are lost,
    `strength` is the mean strength at which it was read, `saturated` whether most choices are at a bound.
    """

    judged: Judged
    stage: str
    dose: int
    match: Match
    contrasts: dict[str, np.ndarray]
    seeds: np.ndarray
    n_items: int
    strength: float | None
    saturated: bool
    overlap: bool
    missing: dict[str, int]
    losses: tuple[str, ...]


def strengths_of(grid: Grid, design: Design, stage: int) -> Strengths:
    """Strength of each arm X at each dose: the mean over items of m(X, X) in the gate's headline measure.

    Less m(0, X) of the base where the design matches on gain.
    """
    taken = take(grid, _used(design, stage, "strength"), with_base=design.gain)
    own = np.stack([taken.value[0, 0], taken.value[1, 1]])  # [2, S, U, I]
    if design.gain:
        own = own - taken.base[:, :, None]
    measured = np.isfinite(own).any(axis=3)
    # items are the same at every dose and in both arms
    whole = (np.isfinite(own) | ~measured[..., None]).all(axis=(0, 2)) & np.isfinite(own).any(axis=(0, 2))
    curves: list[list[Curve]] = [[], []]
    at = np.full(own.shape[1], np.nan)
    for seed in range(own.shape[1]):
        for arm in range(2):
            values = own[arm, seed][:, whole[seed]]
            means = [fsum(row) / len(row) if len(row) and np.isfinite(row).all() else np.nan for row in values.tolist()]
            curves[arm].append(curve(np.array(means)))
        middle = common_strength(curves[0][seed], curves[1][seed])
        at[seed] = np.nan if middle is None else middle
    return Strengths((tuple(curves[0]), tuple(curves[1])), at)


def read(
    grid: Grid, design: Design, judged: Judged, stage: int, strengths: Strengths | None,
    failed: frozenset[int] = frozenset(),
) -> Reading:  # fmt: skip
    """The reading at the stage's last dose, or at equal strength where `strengths` is given.

    A seed is dropped where it lacks an arm, the base, or a common range of strength; then `contrasts.balanced` makes
    seeds x items complete.  Without a common range in more than half of the seeds that are otherwise complete, or in
    all but one, there is no overlap: the rest would be a selection.  `failed`: seeds lost to runs that diverged.
    """
    match: Match = "dose" if strengths is None else "strength"
    taken = take(grid, _used(design, stage, match), with_base=judged.level == "persona")
    if strengths is None:
        arms = taken.value[:, :, :, 0]
    else:
        arms = np.stack([_at_strength(taken, strengths, arm) for arm in range(2)])
    quantities = _quantities(arms, taken.base, judged)
    present = quantities.present
    without = [] if strengths is None else _without_overlap(taken, strengths, judged)
    seeds, items = balanced(present)
    complete = len(np.flatnonzero(present.any(axis=1))) + len(without)
    overlap = not without or complete - len(without) >= max(2, complete / 2)
    if not overlap:
        seeds, items = seeds[:0], items[:0]
    kept = quantities.only(seeds, items)
    kind, doses = design.stages[stage]
    some = len(seeds) > 0
    strength = None
    if strengths is not None and some:
        strength = fsum(strengths.at[seeds].tolist()) / len(seeds)
    missing = {"rows": taken.rows, "items": len(grid.items) - len(items), "seeds": len(design.seeds) - len(seeds)}
    return Reading(
        judged,
        kind,
        doses[-1],
        match,
        kept.contrasts() if some else {},
        seeds,
        len(items),
        strength,
        some and at_bound(judged, kept),
        overlap,
        missing,
        _losses(design, grid, seeds, items, without, overlap, taken, failed),
    )


def _used(design: Design, stage: int, match: Match) -> list[int]:
    kind, doses = design.stages[stage]
    chosen = doses if match == "strength" else doses[-1:]
    places = points(design)
    return [places.index((kind, dose)) for dose in chosen]


def _at_strength(taken: Taken, strengths: Strengths, arm: int) -> np.ndarray:
    """Values of an arm read at each seed's common strength, [P, S, I]."""
    value = taken.value[arm]  # [P, S, U, I]
    result = np.full((value.shape[0], value.shape[1], value.shape[3]), np.nan)
    for seed in np.flatnonzero(np.isfinite(strengths.at)):
        doses = np.moveaxis(value[:, seed], 1, 0)  # [U, P, I]
        there = np.isfinite(doses).any(axis=(1, 2))
        result[:, seed] = read_at(strengths.curves[arm][seed], doses, there, float(strengths.at[seed]))
    return result


def _quantities(arms: np.ndarray, base: np.ndarray, judged: Judged) -> Quantities:
    if judged.level == "arm":
        return Quantities(arms[0, 0], arms[1, 0])
    return Quantities(
        own_a=arms[0, 0], own_c=arms[1, 1], cross_a=arms[0, 1], cross_c=arms[1, 0], base_a=base[0], base_c=base[1]
    )


def _without_overlap(taken: Taken, strengths: Strengths, judged: Judged) -> list[int]:
    """Seeds that were measured in both arms (and the base) but have no common range of strength."""
    measured = np.isfinite(taken.value).any(axis=(3, 4)).all(axis=(0, 1))
    if judged.level == "persona":
        measured &= np.isfinite(taken.base).any(axis=2).all(axis=0)
    return [int(seed) for seed in np.flatnonzero(measured & ~np.isfinite(strengths.at))]


def at_bound(judged: Judged, kept: Quantities) -> bool:
    """Whether choice probabilities of the favoured personas are above .98 or below .02 on most items of both arms.

    Not where the arms sit at opposite bounds: that is a difference, and a large one.
    """
    if judged.gate or not judged.bounded or judged.unit != "logit":
        return False
    bound = np.log(0.98 / 0.02)
    a, c = (np.sign(q) * (np.abs(q) > bound) for q in (kept.own_a, kept.own_c))
    return bool((a != 0).mean() > 0.5 and (c != 0).mean() > 0.5 and (a * c < 0).mean() <= 0.5)


def _losses(
    design: Design, grid: Grid, seeds: np.ndarray, items: np.ndarray, without: list[int], overlap: bool, taken: Taken,
    failed: frozenset[int],
) -> tuple[str, ...]:  # fmt: skip
    """What a reading could not use, in words; seeds of `failed` runs are told once for all, elsewhere."""
    if not grid.items:
        return ("not measured",)
    names = sorted(design.seeds)
    lost = [names[index] for index in without]
    said = []
    if taken.rows:
        said.append(f"{taken.rows} values missing")
    if taken.uneven:
        said.append(f"{taken.uneven} slots of items have more rows in one arm or dose than in another")
    if lost:
        said.append(f"no common range of strength in {_count(lost, len(names), 'seed')}")
    if overlap:
        gone = [names[s] for s in range(len(names)) if s not in {*seeds.tolist(), *without}]
        gone = [name for name in gone if name not in failed]
        if gone:
            said.append(f"{_count(gone, len(names), 'seed')} dropped as incomplete")
        dropped = [grid.items[i] for i in range(len(grid.items)) if i not in set(items.tolist())]
        if dropped and len(seeds):
            said.append(f"{_count(dropped, len(grid.items), 'item')} dropped as incomplete")
    return tuple(said)


def _count(gone: Sequence[object], total: int, what: str) -> str:
    named = ", ".join(str(name) for name in gone[:6])
    return f"{len(gone)} of {total} {what}s ({named}{', …' if len(gone) > 6 else ''})"
