"""Trained against prompted at equal strength: did post-training make more of a persona than asking for it does?

If post-training selects a character that the base model has anyway, an arm trained as far as the prompt reaches has
what the prompted base model has; if it makes the model *be* that character, the arm has more of it (it resists, it
returns, it knows itself).  Strength is held equal because a firmer persona shows more of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import TYPE_CHECKING

import numpy as np

from eval.cells import PROMPTED
from eval.collect import Grid, Taken, admit, grids, points, take
from eval.contrasts import Quantities, balanced
from eval.design import Design, Judged
from eval.failed import Failed, seeds_lost, too_few, without
from eval.interval import crossed, seed_means
from eval.looks import Levels, levels_of
from eval.reading import at_bound
from eval.signflip import benjamini_hochberg, max_t, sign_flip
from eval.strength import Curve, curve, read_at
from eval.verdicts import Row, decide, differs, number

if TYPE_CHECKING:
    import polars as pl

# Where realization and selection part ways: does it hold under pressure, is it represented, does it know itself.
# Fixed here and not by the recipe, so that nobody can choose them after a look.  All other probes are exploratory.
FIRST = ("stickiness", "belief", "self_prediction")
CONTRAST = "trained - prompted"
RUN = "run"  # stage of the reading on the whole path of a run, through all of its stages
AS_STAGE = "prompted"  # the stage under which a prompted arm's rows stand beside the doses of its trained arm


@dataclass(frozen=True)
class Compared:
    """One probe at one stage: T of the trained arms at the prompted ones' strength and T of the prompted, x [S, I].

    `seeds` are indices into the design's seeds; `strength` is the prompted arms' mean.
    """

    judged: Judged
    stage: str
    trained: np.ndarray
    prompted: np.ndarray
    seeds: np.ndarray
    strength: float | None
    saturated: bool
    overlap: bool
    missing: dict[str, int]

    @property
    def first(self) -> bool:
        """Whether it is one of those that are not exploratory."""
        return self.judged.probe in FIRST and self.stage != RUN

    @property
    def x(self) -> np.ndarray | None:
        """T of the trained less T of the prompted; None where there is nothing to compare."""
        return self.trained - self.prompted if len(self.seeds) else None


def compare(rows: pl.DataFrame, prompted: Sequence[pl.DataFrame], design: Design, failed: Failed = ()) -> list[Row]:
    """Trained against prompted for every pair, stage and persona-level headline measure but the gate's.

    `rows` are those that the design judges; of `prompted`, those of the prompted arms are taken.  The contrast is T of
    the trained arms, each read at the strength that the prompted arm of the same persona and seed has, less T of the
    prompted arms; like T it does not change when the pair is turned round.  > 0: training made more of it.  `broken`
    says that trained and prompted differ, `symmetric` that they differ by less than matters; a relative margin is a
    share of the mean of both Ts.

    Where a run has several stages there is a reading on its whole path besides (stage `RUN`): an arm may then be read
    in one stage and its counterpart in another, which pools stages, but more seeds reach the prompt's strength.  It
    is exploratory.

    p is an exact sign flip over seeds.  Trained and prompted arms were not drawn by lot, so it takes for granted that
    without a difference the contrast of a seed is as often above 0 as below.  p_adjusted: max-T over the probes of
    `FIRST` and the stages of a pair, times the number of pairs; Benjamini-Hochberg within the pair for the rest.
    Empty where the design has no gate, since nothing then tells strength.
    """
    if design.gate is None:
        return []
    both = _beside(rows, prompted, design, failed)
    wide = replace(design, stages=(*design.stages, (AS_STAGE, (0,))))
    every = list(range(len(design.stages)))
    ways = [[stage] for stage in every] + ([every] if len(every) > 1 else [])
    admitted, _ = admit(both, wide, failed)
    out: list[Row] = []
    for pair in design.pairs:
        of = grids(admitted, wide, pair)
        paths = [_path(of[design.gate.name], wide, stages) for stages in ways]
        found = [
            _compared(of[judged.name], path, wide, judged)
            for judged in sorted(design.measures, key=lambda m: (m.probe not in FIRST, _place(m.probe)))
            if judged.headline and judged.level == "persona" and not judged.gate
            for path in paths
        ]
        p, adjusted, levels = _tests(found, design)
        gone = {kind: len(seeds_lost(failed, design, pair, k)) for k, (kind, _) in enumerate(design.stages)}
        gone[RUN] = gone[design.stages[0][0]]
        out += [
            _row(pair, one, p[k], adjusted[k], design, levels[one.first], gone[one.stage])
            for k, one in enumerate(found)
        ]
    return out


def _place(probe: str) -> int:
    return FIRST.index(probe) if probe in FIRST else len(FIRST)


def _beside(rows: pl.DataFrame, prompted: Sequence[pl.DataFrame], design: Design, failed: Failed) -> pl.DataFrame:
    """Headline rows of the trained arms, and of the prompted ones under the trained arm's id at a stage of their own.

    Standing at one more dose, they are held to the same items and slots as every other dose.
    """
    import polars as pl

    wanted = [m.probe for m in design.measures if m.headline and m.level == "persona"]
    names = [m.measure for m in design.measures if m.headline and m.level == "persona"]
    heads = pl.DataFrame({"probe": wanted, "measure": names}, schema={"probe": pl.String, "measure": pl.String})
    told = [
        frame.with_columns(arm=pl.col("arm").str.strip_prefix(PROMPTED), stage=pl.lit(AS_STAGE), dose=pl.lit(0))
        for frame in (frame.filter(pl.col("arm").str.starts_with(PROMPTED)) for frame in prompted)
    ]
    trained = without(rows, failed, design)
    return pl.concat([trained, *told], how="vertical_relaxed").join(heads, on=["probe", "measure"], how="semi")


@dataclass(frozen=True)
class _Path:
    """Where arms of a pair are read on the path of some stages: `curves` by arm and seed, `at` [2, S] the strength.

    `used`: the points of the design, the prompted one last; a path `at_base` begins there and has it as first dose.
    """

    stage: str
    used: tuple[int, ...]
    at_base: bool
    curves: tuple[tuple[Curve, ...], ...]
    at: np.ndarray


def _path(gate: Grid, design: Design, stages: Sequence[int]) -> _Path:
    """The path of `stages`; it begins where the first of them does: at the base, or at the last dose of the one before.

    Strength is the mean over items of the gate's own measure, over the same items at every dose.
    """
    places, at_base = points(design), stages[0] == 0
    doses = [(kind, dose) for stage in stages for kind, of in [design.stages[stage]] for dose in of]
    before = [] if at_base else [(design.stages[stages[0] - 1][0], design.stages[stages[0] - 1][1][-1])]
    used = [places.index(place) for place in [*before, *doses, (AS_STAGE, 0)]]
    taken = take(gate, used, with_base=at_base)
    own = np.stack([taken.value[arm, arm] for arm in range(2)])  # [2, S, U, I]
    if at_base:
        own = np.concatenate([taken.base[:, :, None], own], axis=2)
    curves: list[list[Curve]] = [[], []]
    at = np.full(own.shape[:2], np.nan)
    for arm in range(2):
        for seed, values in enumerate(own[arm]):
            measured = np.isfinite(values).any(axis=1)
            whole = (np.isfinite(values) | ~measured[:, None]).all(axis=0)
            means = np.array([_mean(row[whole]) for row in values])
            at[arm, seed] = means[-1]
            curves[arm].append(curve(means[:-1]))
    stage = design.stages[stages[0]][0] if len(stages) == 1 else RUN
    return _Path(stage, tuple(used), at_base, tuple(map(tuple, curves)), at)


def _compared(grid: Grid, path: _Path, design: Design, judged: Judged) -> Compared:
    """Read the trained arms where their strength is that of the prompted ones, seed by seed.

    As for a pair at equal strength there is no overlap where most seeds, or all but one, have none.
    """
    taken = take(grid, list(path.used), with_base=path.at_base)
    value = taken.value  # [2, P, S, U, I]
    if path.at_base:
        value = np.concatenate([np.stack([taken.base] * 2)[:, :, :, None], value], axis=3)
    trained = np.full(value.shape[:3] + value.shape[4:], np.nan)
    for arm in range(2):
        for seed in np.flatnonzero(np.isfinite(path.at[arm])):
            by_dose = np.moveaxis(value[arm, :, seed, :-1], 1, 0)  # [U, P, I]
            there = np.isfinite(by_dose).any(axis=(1, 2))
            trained[arm, :, seed] = read_at(path.curves[arm][seed], by_dose, there, path.at[arm, seed])
    return _kept(taken, trained, path.at, design, judged, path.stage, len(grid.items))


def _kept(
    taken: Taken, trained: np.ndarray, at: np.ndarray, design: Design, judged: Judged, kind: str, asked: int
) -> Compared:
    prompted = taken.value[:, :, :, -1]  # [2, P, S, I]
    present = np.isfinite(trained).all(axis=(0, 1)) & np.isfinite(prompted).all(axis=(0, 1))
    measured = np.isfinite(taken.value).any(axis=4)  # [2, P, S, U]
    complete = measured[..., -1].all(axis=(0, 1)) & measured[..., :-1].any(axis=3).all(axis=(0, 1))
    reached = np.isfinite(trained).any(axis=3).all(axis=(0, 1))
    apart = int((complete & ~reached).sum())
    left = int(complete.sum()) - apart
    overlap = not apart or left >= max(2, complete.sum() / 2)
    seeds, items = balanced(present) if overlap else (np.arange(0), np.arange(0))

    def favouring(value: np.ndarray) -> np.ndarray:
        part = value[:, :, seeds][..., items]
        if not len(seeds):
            return np.empty((0, 0))
        return ((part[0, 0] - part[1, 0]) + (part[1, 1] - part[0, 1])) / 2

    def own(value: np.ndarray) -> np.ndarray:
        return np.concatenate([value[arm, arm][np.ix_(seeds, items)] for arm in range(2)], axis=1)

    missing = {"rows": taken.rows, "items": asked - len(items), "seeds": len(design.seeds) - len(seeds)}
    missing["without_overlap"] = apart
    strength = fsum(at[:, seeds].ravel().tolist()) / (2 * len(seeds)) if len(seeds) else None
    saturated = bool(len(seeds)) and at_bound(judged, Quantities(own(trained), own(prompted)))
    return Compared(judged, kind, favouring(trained), favouring(prompted), seeds, strength, saturated, overlap, missing)


def _mean(values: np.ndarray) -> float:
    return fsum(values.tolist()) / len(values) if len(values) and np.isfinite(values).all() else np.nan


def _tests(found: Sequence[Compared], design: Design) -> tuple[np.ndarray, np.ndarray, dict[bool, Levels]]:
    """p and p_adjusted of every comparison, NaN where there is none; the levels at this look, by whether in `FIRST`."""
    means = np.full((len(design.seeds), len(found)), np.nan)
    for k, one in enumerate(found):
        if one.x is not None:
            means[one.seeds, k] = seed_means(one.x)
    there = np.isfinite(means).any(axis=0)
    levels = levels_of(means[:, there & np.array([one.first for one in found], dtype=bool)], design)
    means = means[np.isfinite(means).any(axis=1)]  # a seed that is nowhere has no sign to flip
    p, adjusted = np.where(there, sign_flip(means), np.nan), np.full(len(found), np.nan)
    first = [k for k, one in enumerate(found) if there[k] and one.first]
    rest = [k for k, one in enumerate(found) if there[k] and not one.first]
    if first:
        adjusted[first] = np.minimum(max_t(means[:, first]) * len(design.pairs), 1.0)
    if rest:
        adjusted[rest] = benjamini_hochberg(p[rest].tolist())
    return p, adjusted, levels


def _row(
    pair: tuple[str, str], one: Compared, p: float, adjusted: float, design: Design, levels: Levels, gone: int
) -> Row:
    """A row of verdict.json; `gone`: seeds that the pair lost to failed runs at this stage."""
    judged, alpha, x = one.judged, design.alpha, one.x
    row: Row = {
        "pair": list(pair), "probe": judged.name, "measure": judged.measure, "version": judged.version,
        "stage": one.stage, "match": "strength", "contrast": CONTRAST, "unit": judged.unit,
        "estimate": None, "low": None, "high": None, "level": 1 - alpha, "p": None, "p_adjusted": None,
        "margin": None, "n_seeds": len(one.seeds), "n_items": 0,
        "exploratory": not one.first, "verdict": "undetermined", "note": "", "seeds_needed": None,
        "sensitive": judged.sensitive, "strength": number(one.strength), "trained": None, "prompted": None,
        "missing": dict(one.missing),
    }  # fmt: skip
    if x is None:
        word = {} if one.overlap else {"verdict": "no-overlap"}
        lack = f"the prompted strength was not reached in {one.missing['without_overlap']} seeds"
        return row | word | {"note": "nothing to read" if one.overlap else lack}
    estimate, mean = crossed(x), (one.trained + one.prompted) / 2
    low, high = estimate.interval(1 - alpha)
    decision = decide(judged, x, estimate, mean, crossed(mean), adjusted, alpha, one.saturated, levels)
    bar = levels.broken if row["exploratory"] else levels.broken / len(design.pairs)
    decision = too_few(decision, len(one.seeds), gone, bar)
    note = decision.note.replace("training did not move it", "neither training nor the prompt moved it")
    if decision.verdict == "broken":
        note = "; ".join(part for part in (_more(estimate.mean), note) if part)
    elif differs(estimate, alpha) and "differs" in note:
        note += f" ({_more(estimate.mean)})"
    return row | {
        "estimate": number(estimate.mean), "low": number(low), "high": number(high), "p": number(p),
        "p_adjusted": number(adjusted), "margin": number(decision.margin), "n_items": x.shape[1],
        "verdict": decision.verdict, "note": note, "seeds_needed": decision.seeds_needed,
        "trained": number(crossed(one.trained).mean), "prompted": number(crossed(one.prompted).mean),
    }  # fmt: skip


def _more(value: float) -> str:
    return "more in the trained arms" if value > 0 else "more in the prompted arms"
