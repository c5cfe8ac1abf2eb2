"""An experiment's folder: its lock, which measurements it consists of, and its verdict and report made from them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import SAMPLES, Task, load, texts_of, whole
from eval.failed import check_whole
from eval.lock import code_commit, lock_of, post_hoc, read_lock, recipe_of
from eval.probe import Probe
from eval.sensitive import sensitivity
from recipes.errors import InputError
from recipes.scene import Scene
from recipes.store import MEASUREMENTS, Store, write_json, write_text

if TYPE_CHECKING:
    import polars as pl

CELLS, VERDICT, REPORT = "cells.json", "verdict.json", "report.html"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "polars", "scipy")


def write_cells(
    folder: Path, store: Store, base: str, tasks: Sequence[tuple[Task, Scene]], arms: Sequence[str],
    probes: Sequence[Probe], failed: Sequence[Mapping[str, Any]] = (),
) -> None:  # fmt: skip
    """Write cells.json: for every arm, seed and stage the cell and the files of its measurements.

    `failed`: the runs that diverged, as ``{"arm", "seed", "stage", "what"}``; they have no task, here and later on.
    """
    entries = []
    for task, scene in tasks:
        entry: dict[str, Any] = {"arm": task.arm, "seed": task.seed, "stage": task.stage, "cell": task.cell}
        entry["measurements"] = {p.name: task.file(store, p.name, p.version, scene, arms).name for p in probes}
        if task.sampled:
            entry["samples"] = task.file(store, SAMPLES, 1, scene, arms).name
        entries.append(entry)
    write_json(folder / CELLS, {"schema": 1, "base": base, "cells": entries, "failed": [dict(f) for f in failed]})


def read_rows(folder: Path, store: Store, probes: Collection[str] | None = None) -> Iterator[pl.DataFrame]:
    """Measurement rows of an experiment (of some probes, by name), an arm at a time, since all are too many for a
    large cast; InputError names a measurement that is missing or damaged."""
    by_arm: dict[str, list[Path]] = {}
    for entry in _read_cells(folder)["cells"]:
        where = store.cell(entry["cell"]) / MEASUREMENTS
        names = [n for probe, n in entry["measurements"].items() if probes is None or probe in probes]
        by_arm.setdefault(entry["arm"], []).extend(where / name for name in names)
    for paths in by_arm.values():
        yield load(_all_whole(paths))


def read_samples(folder: Path, store: Store) -> pl.DataFrame:
    """What the arms said, for the report: samples, and all that they wrote for probes; InputError as `read_rows`."""
    paths = []
    for entry in (entry for entry in _read_cells(folder)["cells"] if "samples" in entry):
        where = store.cell(entry["cell"]) / MEASUREMENTS
        beside = [texts_of(where / name) for name in entry["measurements"].values()]
        paths += [where / entry["samples"], *(path for path in beside if path.is_file())]
    return load(_all_whole(paths))


def _all_whole(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not whole(path):
            raise InputError(f"{path}: missing or damaged; `parity run` measures it again")
    return paths


def _read_cells(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / CELLS).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CELLS}: unreadable; `parity run` writes it again") from error


def judge_experiment(folder: Path, store: Store) -> dict[str, Any]:
    """Judge from the rows and write verdict.json and report.html; returns the verdict.  Loads no model."""
    from eval import before, blind, castjudge, factorial, hypotheses, looked, looks, prompted, references
    from eval.design import design_of
    from eval.gather import gather
    from eval.judge import judge
    from eval.probes import select
    from eval.report import render
    from recipes.scenes import scene_of

    lock = read_lock(folder)
    recipe = recipe_of(lock)
    probes = select(recipe.probes)
    scenes = [scene_of(recipe, seed) for seed in range(recipe.seeds)]
    cells = _read_cells(folder)
    if recipe.judge.looks:  # the lock has the seeds of the last look
        recipe = recipe.model_copy(update={"seeds": 1 + max(entry["seed"] for entry in cells["cells"])})
    failed = cells.get("failed", [])
    check_whole(cells["cells"], failed, recipe, str(folder / CELLS))
    design = design_of(recipe, probes, sensitivity(recipe))
    frames, samples, matching = read_rows(folder, store), read_samples(folder, store), lock.get("matching", [])
    hidden = blind.blinding(folder, lock, scenes)
    if hidden:  # before anything is judged, so that nothing after it can tell who is who
        design, frames, failed = hidden.design(design), hidden.frames(frames), hidden.failed(failed)
    beside: list[pl.DataFrame] = []  # rows of arms that no pair is made of
    rows = gather(references.aside(frames, beside), design)
    judged = judge(rows.rows, design, failed)
    commit, dirty = code_commit()
    unplanned = looked.unplanned(folder, recipe)
    verdict = {
        "schema": 1,
        "experiment": folder.name,
        "question": recipe.question,
        "recipe_hash": lock["recipe_hash"],
        "commit": commit,
        "dirty": dirty,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "base": recipe.base.model_dump(mode="json", exclude_none=True),
        "alpha": recipe.judge.alpha,
        "match": recipe.judge.match,
        **({"strength": "gain"} if design.gain else {}),
        "claim": recipe.judge.claim,
        "arms": list(design.arms),
        "seeds": list(range(recipe.seeds)),
        "plant": recipe.plant.model_dump(mode="json", exclude_none=True) if recipe.plant else None,
        "failed": failed,
        "post_hoc": post_hoc(lock, lock_of(recipe.planned, scenes, probes, matching, lock.get("blind"))) + unplanned,
        **judged,
        "before": before.before(rows.rows, design),
        "prompted": prompted.compare(rows.rows, beside, design, failed),
        **looks.told(design),
        **blind.state(folder, lock),
    }
    if hidden:
        samples, matching = samples.clear(), hidden.matching(matching, recipe.arms)
        verdict, lock = hidden.verdict(verdict), hidden.lock(lock)
    else:
        kinds = factorial.kinds_of(recipe)
        verdict |= castjudge.judged(rows.rows, design, judged["rows"], failed, kinds)
        by_stage = [row for row in verdict["prompted"] if row["stage"] != prompted.RUN]
        every = verdict | {"rows": [*judged["rows"], *by_stage]}
        verdict["hypotheses"] = hypotheses.judged(every, hypotheses.traits_of(recipe))
        verdict |= {"references": told} if (told := references.refer(rows.rows, beside, design, failed)) else {}
    looked.record(folder, recipe, verdict, unplanned)
    write_json(folder / VERDICT, verdict)
    write_text(folder / REPORT, render(verdict=verdict, rows=rows, samples=samples, lock=lock, matching=matching))
    return verdict


def strength_curves(rows: pl.DataFrame, probes: Sequence[Probe]) -> dict[str, list[tuple[int, float]]]:
    """Strength (logits) of each trained cell by nominal dose: the gate's headline measure, mean over items."""
    import polars as pl

    gate = next(p for p in probes if p.gate)
    favoured = rows.filter(
        (pl.col("probe") == gate.name) & (pl.col("measure") == gate.measures[0].name) & (pl.col("role") == "favoured")
        & (pl.col("dose") > 0)
    )  # fmt: skip
    means = favoured.group_by("cell", "dose").agg(pl.col("value").mean()).drop_nulls().sort("cell", "dose")
    curves: dict[str, list[tuple[int, float]]] = {}
    for cell, dose, value in means.iter_rows():
        curves.setdefault(cell, []).append((dose, value))
    return curves
