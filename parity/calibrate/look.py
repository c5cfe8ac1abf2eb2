"""What the judge says of one batch: of all its seeds and of either half, at equal strength and dose, as it asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import BASE
from eval.collect import admit, grids
from eval.design import Design
from eval.failed import seeds_lost, without
from eval.interval import seed_means
from eval.judge import judge
from eval.reading import read, strengths_of
from eval.verdicts import number
from parity import workers
from parity.calibrate.batch import Batch
from recipes.store import write_json

if TYPE_CHECKING:
    import polars as pl

KEPT = (
    "probe", "stage", "match", "contrast", "unit", "primary", "estimate", "low", "high", "p", "p_adjusted", "margin",
    "sign", "verdict", "n_seeds", "n_items",
)  # fmt: skip
JUDGED = "judged"
BOTH = ("strength", "dose")


@dataclass(frozen=True)
class View:
    """One way of judging a batch.

    `half`: None for all seeds, else 0 or 1.  `match`: which reading is primary.  `adjusted`: whether the base's own
    difference is taken off.
    """

    half: int | None
    match: str
    adjusted: bool = True


@dataclass(frozen=True)
class Shift:
    """A difference that is added to what an arm says of itself, in each measure's unit, by the name it is judged by."""

    times: float  # of the margin
    by: Mapping[str, float]


def views(kind: str, match: str) -> list[View]:
    """How experiments with a plant of this kind (or none) are judged."""
    if kind in ("dose", "prior"):  # once as the judge adjusts, once without
        ways = [(how, adjusted) for how in BOTH for adjusted in (True, False)]
    else:
        ways = [(match, True)]
    return [View(half, how, adjusted) for half in (None, 0, 1) for how, adjusted in ways]


def judged_file(batch: Batch, root: Path) -> Path:
    """Where `look` leaves what it found."""
    return root / JUDGED / f"{batch.file(root).stem}.json"


def look(job: tuple[Batch, str], root: Path) -> None:
    """Judge a batch of a kind in all its ways and write it down.  Runs in a worker."""
    batch, kind = job
    rows, failed = batch.read(root)
    design = batch.design()
    found = [
        {"half": view.half, "match": view.match, "adjusted": view.adjusted, **judged(rows, design, view, failed)}
        for view in views(kind, design.match)
    ]
    held = {"views": found, "seeds": list(seed_contrasts(rows, design, failed)), "failed": len(failed)}
    write_json(judged_file(batch, root), held)
    workers.count(1)


def found(batch: Batch, root: Path) -> dict[str, Any]:
    """What `look` wrote."""
    return json.loads(judged_file(batch, root).read_text(encoding="utf-8"))


def judged(rows: pl.DataFrame, design: Design, view: View, failed: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """``{"n", "verdict", "rows"}``: number of seeds, and the judge's own verdict and rows in one view."""
    import polars as pl

    half = len(design.seeds) // 2
    seeds = design.seeds if view.half is None else design.seeds[view.half * half :][:half]
    rows = rows.filter(pl.col("seed").is_in(seeds))
    if not view.adjusted:  # a base that says the same of everyone takes nothing off
        rows = rows.with_columns(value=pl.when(pl.col("arm") == BASE).then(0.0).otherwise(pl.col("value")))
    lost = [one for one in failed if one["seed"] in seeds]
    verdict = judge(rows, replace(design, seeds=seeds, match=view.match), lost)  # type: ignore[arg-type]
    return {
        "n": len(seeds),
        "verdict": verdict["verdict"],
        "rows": [{key: row[key] for key in KEPT} for row in verdict["rows"]],
    }


def seed_contrasts(
    rows: pl.DataFrame, design: Design, failed: Sequence[Mapping[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Every contrast of every reading as its mean over items in each seed."""
    pair = design.pairs[0]
    of = grids(admit(without(rows, failed, design), design, failed)[0], design, pair)
    gate = design.gate
    for stage in range(len(design.stages)):
        gone = seeds_lost(failed, design, pair, stage)
        strengths = strengths_of(of[gate.name], design, stage) if gate else None
        for measure in design.measures:
            for at in (None,) if measure.gate or strengths is None else (None, strengths):
                reading = read(of[measure.name], design, measure, stage, at, gone)
                for contrast, x in reading.contrasts.items():
                    yield {
                        "probe": measure.name,
                        "stage": reading.stage,
                        "match": reading.match,
                        "contrast": contrast,
                        "unit": measure.unit,
                        "means": [number(mean) for mean in seed_means(x)],
                    }


def look_shifted(batch: Batch, root: Path, shifts: Sequence[Shift]) -> None:
    """Judge a batch of the null with known differences added, and write it down.  Runs in a worker."""
    rows, failed = batch.read(root)
    design = batch.design()
    whole = View(None, design.match)
    said = [{"times": s.times, **judged(shifted(rows, design, s.by), design, whole, failed)} for s in shifts]
    write_json(shifted_file(batch, root), said)
    workers.count(1)


def shifted_file(batch: Batch, root: Path) -> Path:
    """Where `look_shifted` leaves what it found."""
    return root / JUDGED / f"{batch.file(root).stem}.shifted.json"


def said_of(batch: Batch, root: Path) -> list[dict[str, Any]]:
    """What `look_shifted` wrote."""
    return json.loads(shifted_file(batch, root).read_text(encoding="utf-8"))


def shifted(rows: pl.DataFrame, design: Design, by: Mapping[str, float]) -> pl.DataFrame:
    """Rows in which the first arm of the pair has `by` more of each measure, where it speaks of itself.

    So delta is larger by just that, at every dose and so at every strength; T by half of it.
    """
    import polars as pl

    arm = design.pairs[0][0]
    own = (pl.col("arm") == arm) & (pl.col("persona").is_null() | (pl.col("persona") == arm))
    value = pl.col("value")
    for measure in design.measures:
        if measure.name in by:
            here = own & (pl.col("probe") == measure.probe) & (pl.col("measure") == measure.measure)
            value = pl.when(here).then(value + by[measure.name]).otherwise(value)
    return rows.with_columns(value=value)
