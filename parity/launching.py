"""Cells in processes of their own under accelerate (``launch.backend: process``).

A cell that fits on one device takes one: with several devices, as many cells are trained at once.  A config that takes
all devices for a cell (DDP, FSDP, ZeRO) trains one cell after the other.  A run's stages follow one another on
whatever device is free.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.jobs import PORT, Job, Jobs, Unfinished
from parity.progress import say
from parity.workers import devices
from recipes.checks import ACCELERATE
from recipes.errors import InputError
from recipes.packages import extra_of
from recipes.schema import Recipe
from recipes.store import SCRATCH, Store
from training.cells import Cell, settings_of
from training.distributed import share_of
from training.processes import LAUNCHER, PROCESSES
from training.supported import backend_of

if TYPE_CHECKING:
    from parity.train import Making

NAMED = 5  # missing cells that are named; more are counted


@dataclass(frozen=True)
class Setup:
    """How cells are launched: accelerate's `config`, `processes` of each job, and the environments of jobs at once."""

    config: Path
    processes: int
    lanes: tuple[dict[str, str], ...]


def in_processes(recipe: Recipe, start: int = 0) -> bool:
    """Whether all stages from `start` on get processes of their own, so that runs need not wait for one another."""
    return all(backend_of(recipe, stage)[0] == "process" for stage in recipe.stages[start:])


def launch(making: Making, cells: Sequence[Cell], tick: Callable[[int], None], note: Callable[[str], None]) -> None:
    """Make the cells that are missing; those of a run are to be in the order of its stages.

    What follows a run that diverged is left out.  Unfinished where a job failed; what is done by then stays.
    """
    recipe, store = making.recipe, Store(making.root)
    missing = {cell.hash: cell for cell in cells if not store.has(cell.hash)}
    counted = _Steps(store, tick)
    for cell in cells:
        if cell.hash not in missing:
            tick(cell.spec["steps"][-1])
    if not missing:
        return
    setup = set_up(recipe, list(missing.values()))
    _free_devices()
    jobs = [Job(c.hash, c.label, command(making, setup, c), (c.spec["parent"],)) for c in missing.values()]
    left = Jobs(
        setup.lanes,
        wanted=lambda job: not store.has(job.key) and store.alive(missing[job.key].spec["parent"]),
        done=lambda job: store.has(job.key),
        begun=lambda running: note(_names([job.name for job in running], 1)),
        ended=lambda job: counted.end(missing[job.key]),
        look=lambda running: counted.look([missing[job.key] for job in running]),
        say=say,
        disk=str(store.root),
    ).run(jobs)
    if left:
        names = _names([job.name for job in left], NAMED)
        raise Unfinished(f"{len(left)} of {len(jobs)} cells are missing: {names}; the same command goes on from here")


def set_up(recipe: Recipe, cells: Sequence[Cell]) -> Setup:
    """What the recipe's accelerate config means on this machine.

    InputError where it needs a GPU or a package that is not here, or where the processes cannot share a batch.
    """
    from accelerate.commands.config.config_args import load_config_from_file

    name = recipe.launch.accelerate
    path = ACCELERATE / f"{name}.yaml"
    path = path if path.is_file() else Path(name).absolute()
    where = f"launch.accelerate: {name}"
    try:
        read = load_config_from_file(str(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: accelerate cannot read it: {' '.join(str(error).split())}") from error
    strategy = str(getattr(read.distributed_type, "value", read.distributed_type))
    gpus = () if read.use_cpu else devices(None if read.gpu_ids in (None, "all") else str(read.gpu_ids))
    environment = {LAUNCHER: str(os.getpid())} | ({"ACCELERATE_USE_CPU": "true"} if read.use_cpu else {})
    if strategy == "NO":
        each = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
        setup = Setup(path, 1, tuple(environment | lane for lane in each))
    else:
        if strategy == "DEEPSPEED" and find_spec("deepspeed") is None:
            how = f"pip install -e '.[{extra_of('deepspeed') or 'deepspeed'}]'"
            raise InputError(f"{where}: the package deepspeed is not installed; run: {how}")
        given = read.num_processes if read.num_processes and read.num_processes > 0 else len(gpus)
        if not given or not (gpus or read.use_cpu):
            raise InputError(f"{where} needs GPUs, and none is visible; `single` and `cpu` do without")
        setup = Setup(path, given, (environment | {PROCESSES: str(given)},))
    for cell in {cell.stage: cell for cell in cells}.values():
        share_of(cell.spec["kind"], settings_of(recipe, cell), setup.processes)
    return setup


def command(making: Making, setup: Setup, cell: Cell) -> tuple[str, ...]:
    """The command line that makes a cell."""
    parts = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(setup.config)]
    parts += ["--num_processes", str(setup.processes), "--main_process_port", PORT]
    if "CUDA_VISIBLE_DEVICES" in setup.lanes[0]:
        parts += ["--gpu_ids", "all"]  # of those that the lane shows it
    parts += ["-m", f"training.{cell.spec['kind']}", "--recipe", str(making.recipe_file), "--arm", str(cell.arm)]
    parts += ["--seed", str(cell.seed), "--out", str(making.root)]
    for override in making.overrides:
        parts += ["-s", override]
    return tuple(parts)


class _Steps:
    """Counts the optimiser steps of running cells, from what they have written."""

    def __init__(self, store: Store, tick: Callable[[int], None]) -> None:
        self.store, self.tick = store, tick
        self.told: dict[str, int] = {}
        self.sizes: dict[str, int] = {}

    def look(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            path = self.store.work(cell.hash) / SCRATCH / "metrics.jsonl"
            try:
                size = path.stat().st_size
                if size == self.sizes.get(cell.hash):
                    continue
                self.sizes[cell.hash] = size
                with open(path, "rb") as handle:
                    handle.seek(max(0, size - 4096))
                    whole = handle.read().rpartition(b"\n")[0].splitlines()
                self._tell(cell, int(json.loads(whole[-1])["step"]))
            except (OSError, ValueError, KeyError, IndexError):  # not there yet, or being written
                continue

    def end(self, cell: Cell) -> None:
        self._tell(cell, cell.spec["steps"][-1])

    def _tell(self, cell: Cell, step: int) -> None:
        before = self.told.get(cell.hash, 0)
        if step > before:  # a resumed cell counts again what it had
            self.told[cell.hash] = step
            self.tick(step - before)


def _names(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _free_devices() -> None:
    """Give back what this process holds of a device's memory: the jobs need it."""
    import gc

    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
