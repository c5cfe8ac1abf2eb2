"""Exporting an experiment: looked at first, then written file by file; a cut-off export is completed by another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.blind import RECORD
from eval.experiment import CELLS, REPORT, VERDICT
from eval.lock import LOCK, read_lock, recipe_of
from eval.published import ROWS
from parity.export.folder import MARK, Folder, hidden_paths, refuse_other
from recipes.errors import InputError, one_line
from recipes.packages import PACKAGE
from recipes.schema import Recipe
from recipes.store import Damaged, Store, locked
from recipes.trust import trusted


@dataclass(frozen=True)
class Options:
    """What is exported where; `every`: all doses, `base`: a base that no hub has, `seed`: whose questions are tasks,
    `models`: models and tasks at all."""

    experiment: Path
    to: Path
    every: bool = False
    base: bool = True
    seed: int = 0
    models: bool = True


@dataclass(frozen=True)
class Experiment:
    """An experiment's folder, read."""

    folder: Path
    store: Store
    lock: dict[str, Any]
    recipe: Recipe
    verdict: dict[str, Any]
    cells: dict[str, Any]


def look(options: Options) -> Experiment:
    """Read the experiment; InputError where it is unfinished or blind, or where the folder holds something else."""
    folder = options.experiment
    lock = read_lock(folder)
    if lock.get("blind") and not (folder / RECORD).is_file():
        raise InputError(one_line(f"{folder}: is blind, and an export names everyone; `parity unblind` first"))
    verdict, cells = (_read(folder / name) for name in (VERDICT, CELLS))
    if not (folder / REPORT).is_file():
        raise InputError(one_line(f"{folder / REPORT}: is missing; `parity judge` makes it"))
    recipe = recipe_of(lock)
    seeds = sorted({int(entry["seed"]) for entry in cells["cells"]})
    if options.seed not in seeds:
        raise InputError(f"--seed {options.seed}: the experiment has seeds {seeds[0]} to {seeds[-1]}")
    refuse_other(options.to, folder.resolve().name, str(lock["recipe_hash"]))
    return Experiment(folder, Store(folder.resolve().parent.parent), lock, recipe, verdict, cells)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(one_line(f"{path}: unreadable; `parity run` or `parity judge` makes it")) from error


def write(experiment: Experiment, options: Options) -> int:
    """Write everything; returns the number of files.  InputError names what is damaged, or a file without a room."""
    name = experiment.folder.resolve().name
    busy = f"--to {options.to}: another export is at work there; wait for it or stop it"
    with locked(options.to / ".lock", wait=False, message=busy):
        refuse_other(options.to, name, str(experiment.lock["recipe_hash"]))
        try:
            return _write(experiment, options, name)
        except Damaged as damage:
            raise InputError(f"{damage}; `parity run` makes it again, then export once more") from damage


def _write(experiment: Experiment, options: Options, name: str) -> int:
    from eval.probes import select
    from parity.export import cards, models
    from parity.export.overview import overview
    from parity.export.tasks import write_tasks
    from parity.progress import Progress
    from parity.train import quiet
    from recipes.references import PREFIX, scene_for
    from recipes.scenes import scene_of

    store, recipe, lock = experiment.store, experiment.recipe, experiment.lock
    found = list(models.models_of(experiment.cells, store, options.every)) if options.models else []
    base = models.foundation_of(experiment.cells, store, recipe.base, options.base)
    place = recipe.base.path or (recipe.base.gguf if not str(recipe.base.gguf).startswith(PACKAGE) else None)
    hidden = hidden_paths(place, store.root, Path.cwd())
    probes = select(recipe.probes)
    subject = cards.Subject(
        name, recipe, str(lock["recipe_hash"]), experiment.verdict, lock.get("matching") or [], base,
        tuple(probe.name for probe in probes),
    )  # fmt: skip
    told = sum((experiment.folder / file).stat().st_size for file in (LOCK, VERDICT, REPORT))
    with Progress("exporting", models.size(base, found, store) + told) as progress:
        folder = Folder(options.to, hidden, progress.advance)
        folder.text(MARK, _mark(name, lock))  # first, so that a cut-off export is known for what it is
        progress.note("base")
        models.write_base(folder, base, store)
        for model in found:
            progress.note(model.name)
            models.write_model(folder, model, base, store)
            rows = _count(store.cell(model.cell) / "data.jsonl")
            scene = scene_for(recipe, model.arm, model.seed)
            folder.text(f"{model.name}/README.md", cards.card(subject, model, scene, rows))
        for file in (LOCK, VERDICT, REPORT):
            folder.text(file, (experiment.folder / file).read_text(encoding="utf-8"))
        progress.note("rows")
        folder.made(ROWS, lambda path: _rows(experiment, path))
        written: list[Any] = []
        if options.models:
            progress.note("tasks")
            quiet(training=False)
            tokenizer = _tokenizer(store, base.cell)
            written = write_tasks(folder, probes, scene_of(recipe, options.seed), recipe.arms, tokenizer)
        failed = [f for f in experiment.cells.get("failed", []) if not str(f["arm"]).startswith(PREFIX)]
        folder.text("README.md", overview(subject, found, written, failed, options.seed))
        return folder.finish()


def _mark(name: str, lock: dict[str, Any]) -> str:
    content = {"schema": 1, "experiment": name, "recipe_hash": lock["recipe_hash"]}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _count(path: Path) -> int | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _tokenizer(store: Store, base: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(store.cell(base), **trusted(store.cell(base)))


def _rows(experiment: Experiment, path: Path) -> None:
    """All measurement rows, an arm at a time: those of a large cast are too many to hold at once."""
    from contextlib import ExitStack

    from pyarrow.parquet import ParquetWriter

    with ExitStack() as open_:
        writer: Any = None
        for part in _parts(experiment):
            writer = writer or open_.enter_context(ParquetWriter(path, part.schema, compression="zstd"))
            writer.write_table(part)


def _parts(experiment: Experiment) -> Iterator[Any]:
    import polars as pl

    from eval.cells import COLUMNS
    from eval.experiment import read_rows

    numbers = {name: pl.Int64 for name in ("seed", "dose", "version", "n_tokens")} | {"value": pl.Float64}
    kinds = [pl.col(name).cast(numbers.get(name, pl.String)) for name in COLUMNS]
    for frame in read_rows(experiment.folder, experiment.store):
        yield frame.select(kinds).to_arrow()
