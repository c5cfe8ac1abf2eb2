"""A batch is one pair-experiment: its runs are trained and measured as `parity run` would, and only its rows are kept.

A batch has seeds of its own, so no two share a run.  Its cells are taken away once its rows stand: those of hundreds
of experiments would be gigabytes.  Rows lie in a file named by what they are made of, so that a killed calibration
goes on, and one that is asked for more makes only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import ENGINE_VERSION, Task, groups_of, load, save, texts_of, whole
from eval.collect import NEEDED, needed
from eval.design import Design, design_of
from eval.probes import select
from parity import workers
from parity.plan import Plan
from parity.run import failures, measurable, remove_damaged
from parity.train import Making, make_group, quiet
from recipes.hashing import digest, recipe_hash
from recipes.scenes import scene_of
from recipes.schema import Recipe
from recipes.store import MEASUREMENTS, Store, write_json
from training.cells import STAGE_VERSION, base_cell, stage_cell

if TYPE_CHECKING:
    import polars as pl

ROWS, FAILED = "rows", "failed"


@dataclass(frozen=True)
class Batch:
    """One pair-experiment of `recipe` with the training seeds `first` … `first` + recipe.seeds - 1."""

    recipe: Recipe
    first: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """Its training seeds, which also draw its characters."""
        return tuple(range(self.first, self.first + self.recipe.seeds))

    @property
    def cost(self) -> int:
        """What `make_rows` counts: optimiser steps of all runs, and measured models times probes."""
        models = sum(len(stage.doses) for stage in self.recipe.stages) * len(self.recipe.arms) + 1
        steps = sum(stage.doses[-1] for stage in self.recipe.stages) * len(self.recipe.arms)
        return self.recipe.seeds * (steps + models * len(select(self.recipe.probes)))

    def file(self, root: Path) -> Path:
        """Where its rows lie."""
        made_of = [
            recipe_hash(self.recipe), self.first, base_cell(self.recipe).hash, STAGE_VERSION, ENGINE_VERSION,
            {probe.name: probe.version for probe in select(self.recipe.probes)},
        ]  # fmt: skip
        return root / ROWS / f"{digest(made_of)[:24]}.parquet"

    def plan(self, root: Path) -> Plan:
        """Its cells and measurements: the base and both arms, without the prompted ones, which no contrast needs."""
        recipe, store = self.recipe, Store(root)
        base = base_cell(recipe)
        cells, tasks = [], []
        for seed in self.seeds:
            tasks.append(Task(base.hash, base.hash, "base", seed, "base", (0,)))
            for arm in recipe.arms:
                parent = base
                for index, stage in enumerate(recipe.stages):
                    parent = stage_cell(recipe, arm, seed, index, parent)
                    cells.append(parent)
                    full = stage.lora is None
                    tasks.append(Task(parent.hash, base.hash, arm, seed, stage.kind, stage.doses, full))
        return Plan(recipe, store, root, base, tuple(cells), tuple(tasks), ())

    def design(self) -> Design:
        """What is judged of it: the recipe's design for its own seeds.

        Nothing is taken for insensitive: whether a plant is seen is what is to be found out.
        """
        from dataclasses import replace

        return replace(design_of(self.recipe, select(self.recipe.probes), {}), seeds=self.seeds, looks=())

    def read(self, root: Path) -> tuple[pl.DataFrame, list[Mapping[str, Any]]]:
        """Its rows, and its runs that diverged."""
        path = self.file(root)
        return load([path]), json.loads(_beside(path).read_text(encoding="utf-8"))


def stands(batch: Batch, root: Path) -> bool:
    """Whether the batch's rows are there, undamaged."""
    path = batch.file(root)
    return whole(path) and _beside(path).is_file()


def make_rows(batch: Batch, root: Path, recipe_file: Path) -> None:
    """Train and measure a batch whose base stands, keep its rows and take its cells away.  Runs in a worker."""
    path = batch.file(root)
    if stands(batch, root):
        workers.count(batch.cost)
        return
    quiet()
    workers.settle(batch.recipe)
    plan = batch.plan(root)
    remove_damaged(plan)
    make_group(Making(batch.recipe, root, recipe_file), plan.cells, workers.count)
    scenes = {seed: scene_of(batch.recipe, seed) for seed in batch.seeds}
    probes, arms = select(batch.recipe.probes), batch.recipe.arms
    tasks = [(task, scenes[task.seed]) for task in measurable(plan)]
    for group in groups_of(tasks, plan.store, arms, probes):
        workers.measure_group(group, batch.recipe, root, plan.base.hash)
    files = [task.file(plan.store, p.name, p.version, scene, arms) for task, scene in tasks for p in probes]
    write_json(_beside(path), failures(plan))
    save(needed(load(files), batch.design()).select(NEEDED), path)
    for cell in plan.cells:
        plan.store.remove(cell.hash)
    for file in files:  # of the base, which stays
        for left in (file, file.with_suffix(".sha256"), texts_of(file), texts_of(file).with_suffix(".sha256")):
            if left.parent == plan.store.cell(plan.base.hash) / MEASUREMENTS:
                left.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.{FAILED}.json")
