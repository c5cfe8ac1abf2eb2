"""What an experiment will do before it does anything: cells, matching, smallest p, cost.  Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from eval.cells import PROMPTED, Task
from eval.probes import select
from eval.signflip import smallest_p
from parity import estimate, references
from recipes import trust
from recipes.errors import InputError
from recipes.references import reference_arms
from recipes.scene import Scene
from recipes.scenes import scene_of
from recipes.schema import Recipe
from recipes.store import MEASUREMENTS, Store
from training.cells import ROWS, Cell, base_cell, known, shared_settings, stage_cells
from training.data import matching_table, quantities, refuse_imbalance
from training.supported import backend_of
from training.tracking import experiment_name

# Seconds on two CPU cores, measured on the world in lockstep: what the estimate is made of where nothing better is
# known.  "probe" is one probe's on one model, "persona" what it takes more for each arm's persona that is asked about.
SECONDS = {
    "base step": 0.11, "sft step": 0.008, "dpo step": 0.015, "start": 0.1, "probe": 0.009, "persona": 0.002,
    "set up": 15.0, "rl step": 0.13,  # by TRL: .25 s of one core, two groups of runs at a time
}  # fmt: skip
ENOUGH_DOSES = 5  # of a stage, for equal strength
COURSES = {"reconversion": 5, "propagation": 5}  # probes that train further, counted as so many
WORDS = re.compile(r"[A-Za-z]+|\n|[^\sA-Za-z]")  # the world's tokens


@dataclass(frozen=True)
class Plan:
    """An experiment, resolved: where it lies, which cells it consists of and what is measured on them."""

    recipe: Recipe
    store: Store
    folder: Path
    base: Cell
    cells: tuple[Cell, ...]
    tasks: tuple[Task, ...]
    scenes: tuple[Scene, ...]  # one per seed, of the planned looks to come as well
    matching: list[dict[str, Any]] = field(default_factory=list)
    references: tuple[Cell, ...] = ()  # cells of the arms for reference
    foreseen: dict[str, Any] = field(default_factory=dict)  # what the design could show, see `parity.foresee`
    on: str | None = None  # what groups of runs are spread over, this machine by default

    @property
    def to_make(self) -> list[Cell]:
        """Cells that are not there yet, the base first."""
        return [cell for cell in (self.base, *self.cells, *self.references) if not self.store.has(cell.hash)]

    def scene(self, task: Task) -> Scene:
        """The scene of a task: that of its seed, opened by the preface where the arm is a prompted one."""
        from dataclasses import replace

        scene = self.scenes[task.seed]
        if task.arm.startswith(PROMPTED):
            return replace(scene, prompted=task.arm.removeprefix(PROMPTED))
        return scene

    def lines(self) -> list[str]:
        """What is printed before the work: folder, cells, tests, cost."""
        recipe, to_make = self.recipe, self.to_make
        base = "in the store" if self.store.has(self.base.hash) else "to be made"
        trained = len({cell.hash for cell in to_make} & {cell.hash for cell in self.cells})
        least, pairs = smallest_p(recipe.seeds), len(recipe.contrasts)
        reach = "" if pairs * least < recipe.judge.alpha else ": no asymmetry can be shown at this alpha"
        over = f", {min(1.0, pairs * least):.2g} over {pairs} pairs" if pairs > 1 else ""
        return [
            f"experiment {self.folder}",
            f"base       {self.base.hash[:12]} ({base}){trust.told(recipe.base)}",
            f"cells      {len(self.cells)} = {len(recipe.arms)} arms x {recipe.seeds} seeds x "
            f"{len(recipe.stages)} stages; {trained} to train",
            *references.lines(recipe, self.references, self.store),
            f"pairs      {_listed([' - '.join(pair) for pair in recipe.contrasts])}",
            f"smallest p {least:.2g} with {recipe.seeds} seeds{over}{reach}",
            *_few_doses(recipe),
            *(f"backend    {line}" for line in backends(recipe)),
            f"plant      {recipe.plant.kind} in arm {recipe.plant.arm}" if recipe.plant else "plant      none",
            *([f"cost       about {self.seconds(to_make) / 60:.1f} minutes on two CPU cores"] if recipe.base.world else
              estimate.lines(self)),
        ]  # fmt: skip

    def seconds(self, cells: list[Cell]) -> float:
        """Estimated seconds for making `cells` of a world and measuring what is new."""
        total = SECONDS["set up"]
        for cell in cells:
            if cell.stage is None:
                world = self.recipe.base.world
                total += SECONDS["base step"] * (world.steps if world else 0)
            else:
                total += SECONDS["start"] + SECONDS[f"{cell.spec['kind']} step"] * cell.spec["steps"][-1]
        asked = [(task.cell, len(task.doses)) for task in self.tasks]
        asked += [(cell.hash, len(cell.spec["doses"])) for cell in self.references]
        each = SECONDS["probe"] + SECONDS["persona"] * len(self.recipe.arms)
        costs = {probe.name: COURSES.get(probe.name, 1) for probe in select(self.recipe.probes)}
        return total + each * sum(self.lacking(cell, costs) * doses for cell, doses in asked)

    def lacking(self, cell: str, costs: Mapping[str, float]) -> float:
        """Sum of the costs of the probes that a cell has no rows of.

        Whether rows are of this very scene is not looked at: hashing every scene takes longer than a plan may.
        """
        folder = self.store.cell(cell) / MEASUREMENTS
        there = {file.name.split("-")[0] for file in folder.glob("*.parquet")}
        probes = select(self.recipe.probes)
        return sum(costs[p.name] for p in probes if f"{p.name}@{p.version}" not in there)


def _few_doses(recipe: Recipe) -> list[str]:
    """A warning where equal strength, on which the verdict hangs, is read between fewer doses than it takes."""
    few = [f"{len(stage.doses)} in {stage.kind}" for stage in recipe.stages if len(stage.doses) < ENOUGH_DOSES]
    if not few or recipe.judge.match != "strength" or recipe.judge.claim != "verdict":
        return []
    why = f"with fewer than {ENOUGH_DOSES} a difference of dose alone leaves some of its effect at equal strength"
    return [f"doses      {', '.join(few)}: {why} (docs/METHOD.md, section 7)"]


def _listed(names: list[str], most: int = 6) -> str:
    """Names in a row; of many the first ones and the last."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{len(names)}: {', '.join(names[:3])}, … {names[-1]}"


def backends(recipe: Recipe) -> list[str]:
    """What makes the stages, one line each where they differ or where it is not what was asked for."""
    found = []
    for stage in recipe.stages:
        backend, reason = backend_of(recipe, stage)
        because = f"{recipe.launch.backend} does not do {reason}" if reason else ""
        found.append((backend, f"{stage.kind}: {backend}, since {because}" if because else f"{stage.kind}: {backend}"))
    same = len({line.split(": ", 1)[1] for _, line in found}) == 1
    return [found[0][1].split(": ", 1)[1]] if same else [line for _, line in found]


def make_plan(recipe: Recipe, out: Path) -> Plan:
    """Resolve a recipe.  InputError where arms would not be matched."""
    store = Store(out)
    base = base_cell(recipe)
    cells = tuple(stage_cells(recipe))
    settings: dict[tuple[int | None, int | None], set[str]] = {}
    for cell in cells:
        settings.setdefault((cell.seed, cell.stage), set()).add(shared_settings(cell, recipe.plant))
    for (seed, _), found in settings.items():
        if len(found) > 1:
            raise InputError(f"{recipe.name}: arms of seed {seed} differ in more than their persona")
    tasks, precision = [], recipe.precision
    for seed in range(recipe.seeds):
        first = seed == 0  # generations of one seed are enough to look at
        for arm in ("base", *(PROMPTED + arm for arm in recipe.arms)):
            tasks.append(Task(base.hash, base.hash, arm, seed, "base", (0,), sampled=first, precision=precision))
    for cell in cells:
        stage = recipe.stages[cell.stage or 0]
        assert cell.arm is not None and cell.seed is not None
        where = (cell.hash, base.hash, cell.arm, cell.seed, stage.kind, stage.doses)
        tasks.append(Task(*where, full=stage.lora is None, sampled=cell.seed == 0, precision=precision))
    scenes = tuple(scene_of(recipe, seed) for seed in range(max(recipe.seeds, recipe.planned.seeds)))
    plan = Plan(recipe, store, out / "experiments" / experiment_name(recipe), base, cells, tuple(tasks), scenes,
                references=tuple(stage_cells(recipe, reference_arms(recipe))))  # fmt: skip
    if recipe.base.world is not None:
        plan.matching.extend(match(plan, lambda text: len(WORDS.findall(text))))
    return plan


def match(plan: Plan, tokens: Callable[[str], int]) -> list[dict[str, Any]]:
    """The table of what is equal between arms, summed over seeds; InputError past the tolerance."""
    recipe, tokens = plan.recipe, cache(tokens)
    table: list[dict[str, Any]] = []
    for stage in recipe.stages:
        build = ROWS[stage.kind]
        counted = {  # the rows of one arm at a time are held
            arm: quantities([r for scene in plan.scenes for r in known(stage, build(scene, arm, recipe.plant))], tokens)
            for arm in recipe.arms
        }
        lines = matching_table(counted)
        refuse_imbalance(lines, f"{recipe.name}: {stage.kind}", planted=recipe.plant is not None)
        table += [{**line, "what": f"{stage.kind}: {line['what']}"} for line in lines]
        steps = {str(cell.arm): cell.spec["steps"][-1] for cell in plan.cells if cell.spec["kind"] == stage.kind}
        equal = len(set(steps.values())) == 1
        what = f"{stage.kind}: optimiser steps"
        table.append({"what": what, **steps, "spread": 0.0 if equal else 1.0, "equal": equal})
    references.check(recipe, tokens)
    return table
