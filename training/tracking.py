"""The W&B mirror.  Files are the truth: whatever goes wrong here is said once and never stops a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipes.hashing import recipe_hash
from recipes.schema import Recipe
from training.cells import Cell

_said: set[str] = set()


def mode() -> str:
    """``WANDB_MODE``: online, offline, or disabled; offline where nothing is said and no key is at hand."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def experiment_name(recipe: Recipe) -> str:
    """Folder and group name of an experiment: the recipe's name and eight digits of its hash."""
    return f"{recipe.name}-{recipe_hash(recipe)[:8]}"


def guarded(what: str, action: Callable[[], Any]) -> Any:
    """Run `action`; any failure of the mirror becomes one line on stderr, said once per kind of failure."""
    try:
        return action()
    except Exception as error:  # the mirror must never stop a run, whatever it raises
        line = f"W&B: {what} failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        if line not in _said:
            _said.add(line)
            print(line + "; the run goes on, its files are complete", file=sys.stderr)
        return None


def start(
    recipe: Recipe, *, id: str, name: str, job_type: str, folder: Path, config: Mapping[str, Any] | None = None
) -> Any:
    """A W&B run, or None when the mirror is disabled or unreachable.

    `id` is a content hash, so a cell that is trained again online goes on in its own run.
    """
    if mode() == "disabled":
        return None

    def init() -> Any:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=recipe.tracking.project,
            entity=recipe.tracking.entity,
            id=id,
            name=name,
            group=experiment_name(recipe),
            job_type=job_type,
            tags=[name.split()[0], next(iter(recipe.base.model_dump(exclude_none=True))), recipe.name],
            config=dict(config or {}),
            dir=str(folder),
            mode=mode(),  # type: ignore[arg-type]
            resume="allow" if mode() == "online" else None,  # offline runs cannot be resumed into
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=30, x_disable_stats=True, x_disable_meta=True, disable_git=True
            ),
        )

    return guarded("starting a run", init)


def finish(run: Any) -> None:
    """Close a run, if there is one."""
    if run is not None:
        guarded("closing a run", run.finish)


def _shown(recipe: Recipe, cell: Cell) -> str:
    """A run's arm; in a blind experiment digits of the cell's hash, which cells.json alone can resolve."""
    return cell.hash[:8] if recipe.judge.blind else str(cell.arm)


class CellMirror:
    """The W&B run of one stage of one run while it trains; its id is the cell's hash."""

    def __init__(self, recipe: Recipe, cell: Cell, folder: Path) -> None:
        self.recipe, self.cell, self.folder = recipe, cell, folder
        self._run: Any = None

    def begin(self) -> None:
        """Open the run."""
        cell = self.cell
        self._run = start(
            self.recipe,
            id=cell.hash[:32],
            name=f"{_shown(self.recipe, cell)} seed {cell.seed} {cell.spec['kind']}",
            job_type=cell.spec["kind"],
            folder=self.folder,
            config={"seed": cell.seed} | ({} if self.recipe.judge.blind else {"arm": cell.arm, **cell.spec}),
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one step."""
        if self._run is not None:
            guarded("logging", lambda: self._run.log(dict(metrics), step=step))

    def end(self) -> None:
        """Close the run."""
        finish(self._run)
        self._run = None


def log_strength(recipe: Recipe, cells: Iterable[tuple[Cell, Sequence[tuple[int, float]]]], folder: Path) -> None:
    """One `eval` run per stage of a run: strength (logits) by dose."""
    for cell, curve in cells:
        name = f"{_shown(recipe, cell)} seed {cell.seed} {cell.spec['kind']} eval"
        run = start(recipe, id=f"{cell.hash[:24]}-eval", name=name, job_type="eval", folder=folder)
        for dose, strength in curve if run is not None else ():
            guarded("logging", partial(run.log, {"dose": dose, "strength": strength}, step=dose))
        finish(run)


def log_verdict(
    recipe: Recipe, verdict: Mapping[str, Any], experiment: Path, root: Path, files: Sequence[Path]
) -> None:
    """The experiment's `verdict` run: the table, and `files` (report, rows, adapters; below `root`) as an artifact."""
    run = start(recipe, id=f"{recipe_hash(recipe)[:24]}-verdict", name="verdict", job_type="verdict", folder=experiment)
    if run is None:
        return

    def send() -> None:
        import wandb

        rows = verdict["rows"]
        columns = sorted({key for row in rows for key in row})
        data = [[_cell(row.get(key)) for key in columns] for row in rows]
        run.log({"verdict_table": wandb.Table(columns=columns, data=data, allow_mixed_types=True)})
        run.summary["verdict"] = verdict["verdict"]
        artifact = wandb.Artifact(f"{experiment.name}", type="experiment")
        for path in files:
            if path.is_file():
                artifact.add_file(str(path), name=str(path.relative_to(root)))
        run.log_artifact(artifact)

    guarded("logging the verdict", send)
    finish(run)


def _cell(value: Any) -> Any:
    return " : ".join(map(str, value)) if isinstance(value, (list, tuple)) else value if value is not None else ""
