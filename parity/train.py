"""Making what is missing: the base, then the stages of all runs, in groups of runs that are trained together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from parity import launching, on_ray, workers
from parity.plan import Plan
from parity.progress import Progress, say
from recipes.adapters import Unstackable
from recipes.schema import Recipe
from recipes.store import Store
from training.cells import Cell
from training.supported import backend_of

# Runs trained together: enough to share what they can (16 are no faster), few enough to keep all cores busy; fixed, so
# that what a killed run left is grouped as it would have been.
GROUP = 8
Tick = Callable[[int], None]  # optimiser steps that were made


@dataclass(frozen=True)
class Making:
    """How stages are made; picklable, so that a process of its own can make some."""

    recipe: Recipe
    root: Path
    recipe_file: Path
    overrides: tuple[str, ...] = ()


def train(plan: Plan, cells: Sequence[Cell], recipe_file: Path, overrides: Sequence[str] = ()) -> None:
    """Make the cells that are missing: a base, or stages in their order.  What follows a failed stage is left out."""
    wanted = [cell for cell in cells if not plan.store.has(cell.hash)]
    if not wanted:
        return
    quiet()
    workers.settle(plan.recipe)
    world = plan.recipe.base.world
    if wanted[0].stage is None:
        with Progress("base", world.steps if world else 1) as progress:
            make_inline(plan.recipe, wanted[0], plan.store, progress.advance)
        return
    making = Making(plan.recipe, plan.store.root.absolute(), recipe_file.absolute(), tuple(overrides))
    groups = list(_groups(plan, cells))
    spread = workers.spread
    if plan.on:
        groups, spread = on_ray.apart(plan.recipe, groups), on_ray.training(making)
    elif launching.in_processes(plan.recipe):
        groups = [tuple(cell for group in groups for cell in group)] if groups else []
    many = workers.workers_for(plan.recipe, len(groups))
    # Cells differ in cost: progress counts optimiser steps.
    with Progress("training", sum(cell.spec["steps"][-1] for group in groups for cell in group)) as progress:
        if many > 1 or plan.on:
            for group in spread(workers.train_runs, groups, many, making, tick=progress.advance):
                progress.note(group[-1].label)
        else:
            for group in groups:
                make_group(making, group, progress.advance, progress.note)
    if any(stage.rejected == "sampled" for stage in plan.recipe.stages):
        from training.rejected import imbalances

        for line in imbalances(plan.store, cells, named=not plan.recipe.judge.blind):
            say(line)


def _groups(plan: Plan, cells: Sequence[Cell]) -> Iterator[tuple[Cell, ...]]:
    """All stages of up to GROUP runs at a time, where one is missing; so what is finished first makes whole pairs.

    A world's groups are those of the whole plan, whatever stands already: a run's last bits depend on the others of
    its group, and a cell that is made again shall be the one that it was.  Elsewhere that would cost too much.
    """
    size = GROUP
    runs: dict[tuple[str | None, int | None], list[Cell]] = {}
    for cell in cells:
        runs.setdefault((cell.arm, cell.seed), []).append(cell)
    each = list(runs.values())
    if plan.recipe.base.world is None:
        each = [run for run in each if not all(plan.store.has(cell.hash) for cell in run)]
        size = min(size, ceil(len(each) / max(1, len(workers.devices()))))  # enough groups for all GPUs
    for start in range(0, len(each), size or 1):
        group = tuple(cell for run in each[start : start + size] for cell in run)
        if not all(plan.store.has(cell.hash) for cell in group):
            yield group


def make_group(making: Making, cells: Sequence[Cell], tick: Tick, note: Callable[[str], None] = lambda _: None) -> None:
    """Make the stages of some runs, stage by stage, each by the backend that can."""
    recipe, store = making.recipe, Store(making.root)
    bench = None
    for index, stage in enumerate(recipe.stages):
        part = [c for c in cells if c.stage == index and store.alive(c.spec["parent"])]
        backend, _ = backend_of(recipe, stage)
        if all(store.has(cell.hash) for cell in part):
            tick(sum(cell.spec["steps"][-1] for cell in part))
            continue
        if backend == "lockstep":
            from training.groups import Groups, groups_of

            try:
                bench = bench or Groups(recipe, store)
                wanted = part if recipe.base.world else [cell for cell in part if not store.has(cell.hash)]
                for group in groups_of(recipe, wanted, GROUP):
                    note(f"{len(group)} runs, {stage.kind}")
                    bench.train(group, tick, follow(recipe, group, store.root))
                continue
            except Unstackable as reason:
                backend = "inline" if recipe.base.world else "process"
                say(f"{stage.kind}: not in lockstep ({reason}), {backend} instead")
        if backend == "process":
            bench = None  # its copy of the base would lie beside the jobs' own
            rest = launching.in_processes(recipe, index)
            launching.launch(making, [c for c in cells if (c.stage or 0) >= index] if rest else part, tick, note)
            if rest:
                return
            continue
        for cell in part:
            note(cell.label)
            if store.has(cell.hash):
                tick(cell.spec["steps"][-1])
            else:
                make_inline(recipe, cell, store, tick)


def follow(recipe: Recipe, cells: Sequence[Cell], root: Path) -> list[Any]:
    """One W&B mirror per cell; none where the mirror is disabled."""
    from training.tracking import CellMirror, mode

    return [] if mode() == "disabled" else [CellMirror(recipe, cell, root) for cell in cells]


def make_inline(recipe: Recipe, cell: Cell, store: Store, tick: Tick | None = None) -> None:
    """Make a cell in this process with TRL's trainer, or a base."""
    from importlib import import_module

    from training.base import make_base
    from training.mirror import Ticks, callbacks
    from training.stage import train_stage

    ticks = [Ticks(tick)] if tick else []
    if cell.stage is None:
        make_base(recipe, store, ticks)
        return
    stage = import_module(f"training.{cell.spec['kind']}")
    train_stage(recipe, cell, store, stage.make_trainer, [*ticks, *callbacks(recipe, cell, store.root)])


def quiet(training: bool = True) -> None:
    """Keep the libraries' own bars and hints out of our output, and the network out of our work."""
    import warnings

    import transformers

    # Deprecations inside the pinned stack are not the user's to mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft")

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if training:  # measuring does without, and is spared a second of imports
        import datasets

        datasets.disable_progress_bars()
