"""An experiment's folder: its lock, which measurements it consists of, and its verdict and report made from them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import SAMPLES, Task, load, texts_of, whole
from eval.failed import check_whole
from eval.probe import Probe
from eval.sensitive import sensitivity
from recipes.errors import InputError
from recipes.hashing import digest, recipe_hash
from recipes.reader import plain, read_file
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import MEASUREMENTS, Store, write_json, write_text

if TYPE_CHECKING:
    import polars as pl

ANALYSIS_VERSION = 1  # raised when the same rows would be judged otherwise
LOCK, CELLS, VERDICT, REPORT = "recipe.lock.yaml", "cells.json", "verdict.json", "report.html"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "polars", "scipy")


def lock_of(
    recipe: Recipe, scenes: Sequence[Scene], probes: Sequence[Probe], matching: list[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that is fixed before the first training step, with the hashes of what it was made from."""
    return {
        "schema": 1,
        "recipe_hash": recipe_hash(recipe),
        "analysis": ANALYSIS_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "probes": {p.name: p.version for p in probes},
        "margins": {
            f"{p.name}.{m.name}" if i else p.name: {"kind": m.margin.kind, "value": m.margin.value}
            for p in probes
            for i, m in enumerate(p.measures)
        },
        "questions": digest([q.__dict__ for q in scenes[0].questions]),
        "scenes": {str(scene.seed): _digest_scene(scene) for scene in scenes},
        "bindings": {str(scene.seed): dict(scene.bindings) for scene in scenes if scene.bindings},
        "matching": matching,
    }


def _digest_scene(scene: Scene) -> str:
    from dataclasses import asdict

    return digest(asdict(scene))


def write_lock(folder: Path, lock: Mapping[str, Any]) -> None:
    """Write the lock unless there is one: what was locked first stays."""
    if not (folder / LOCK).exists():
        # JSON is YAML; one key a line keeps it readable and its bytes canonical.
        lines = [f"{key}: {json.dumps(lock[key], sort_keys=True, ensure_ascii=False)}\n" for key in sorted(lock)]
        write_text(folder / LOCK, "".join(lines))


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock of an experiment; InputError when the folder is none or the lock is unreadable."""
    if not (folder / LOCK).is_file():
        raise InputError(f"{folder}: no experiment is here (no {LOCK})")
    lock = plain(read_file(folder / LOCK))
    if not isinstance(lock, dict) or lock.get("schema") != 1 or "recipe" not in lock:
        raise InputError(f"{folder / LOCK}: not a lock of this version of Parity")
    return lock


def post_hoc(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed since the lock, one line each; scenes by seed, probes and margins by name."""
    changed = []
    for key in ("analysis", "recipe_hash", "questions"):
        if locked.get(key) != now[key]:
            changed.append(f"{key}: {locked.get(key)} when locked, {now[key]} now")
    for key in ("probes", "margins", "scenes"):
        before, after = locked.get(key, {}), now[key]
        for name in sorted({*before, *after}, key=str):
            if before.get(name) != after.get(name):
                changed.append(f"{key}.{name}: {before.get(name)} when locked, {after.get(name)} now")
    return changed


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
    from eval.design import design_of
    from eval.gather import gather
    from eval.judge import judge
    from eval.probes import select
    from eval.report import render
    from recipes.scenes import scene_of

    lock = read_lock(folder)
    recipe = Recipe.model_validate_json(json.dumps(lock["recipe"]))
    probes = select(recipe.probes)
    scenes = [scene_of(recipe, seed) for seed in range(recipe.seeds)]
    cells = _read_cells(folder)
    failed = cells.get("failed", [])
    check_whole(cells["cells"], failed, recipe, str(folder / CELLS))
    design = design_of(recipe, probes, sensitivity(recipe))
    rows, samples = gather(read_rows(folder, store), design), read_samples(folder, store)
    judged = judge(rows.rows, design, failed)
    commit, dirty = _commit()
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
        "claim": recipe.judge.claim,
        "arms": list(recipe.arms),
        "seeds": list(range(recipe.seeds)),
        "plant": recipe.plant.model_dump(mode="json", exclude_none=True) if recipe.plant else None,
        "failed": failed,
        "post_hoc": post_hoc(lock, lock_of(recipe, scenes, probes, lock.get("matching", []))),
        **judged,
    }
    write_json(folder / VERDICT, verdict)
    matching = lock.get("matching", [])
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


@cache
def _commit() -> tuple[str | None, bool | None]:
    """Commit of the code and whether it has been changed; None where it is not a checkout."""
    here = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "recipes", "training", "eval", "parity"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return head.stdout.strip(), bool(changed.stdout.strip())
