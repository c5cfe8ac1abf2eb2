"""The W&B mirror of training.  Files are the truth: whatever goes wrong here is said once and never stops a run.

A run per stage of a run, its id the cell's hash.  Online a cell that is trained again goes on in its own W&B run.
Offline nothing can be resumed: every attempt is a folder of its own with the same id, and `wandb sync` lets the last
one stand, so each attempt also has the steps that it did not have to make again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipes.hashing import recipe_hash
from recipes.schema import Recipe
from recipes.store import SCRATCH, Store
from training.cells import Cell

STEP = "step"  # what the curves of training are drawn over: optimiser steps
METRICS = "metrics.jsonl"
START_SECONDS = 30  # the longest that W&B may keep a run waiting when it starts
FINISH_SECONDS = 30  # and when it ends; a group of runs ends one after the other
MOST_LETTERS = 64  # of a tag; W&B refuses longer ones
FLUSH_SECONDS = 1.0  # between writes of a run's log: what a kill costs of it (W&B's own default is 15)
REACH_SECONDS = 10  # that a server has to answer at all
OFFLINE = "the mirror goes on offline, `wandb sync` sends it later"
_said: set[tuple[str, str]] = set()
_open: set[str] = set()  # ids of the runs that are open in this process
_reached: set[str] = set()  # servers that have answered this process


def mode() -> str:
    """``WANDB_MODE``: online, offline, or disabled; offline where nothing is said and no key is at hand."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def experiment_name(recipe: Recipe) -> str:
    """Folder and group name of an experiment: the recipe's name and eight digits of its hash."""
    return f"{recipe.name}-{recipe_hash(recipe)[:8]}"


def recipe_name(recipe: Recipe) -> str:
    """The recipe's name as W&B sees it: while blind one that cannot name a persona."""
    named = any(persona in recipe.name for persona in recipe.cast)
    return "blind" if recipe.judge.blind and named else recipe.name


def group_name(recipe: Recipe) -> str:
    """The experiment's group in W&B: its folder's name as far as `recipe_name` shows it."""
    return f"{recipe_name(recipe)}-{recipe_hash(recipe)[:8]}"


def base_name(recipe: Recipe) -> str:
    """The base as a tag: the hub's name of it, or else its kind (a path would name the machine's folders)."""
    return (recipe.base.hub or next(iter(recipe.base.model_dump(exclude_none=True))))[:MOST_LETTERS]


def guarded(what: str, action: Callable[[], Any], then: str = "the run goes on, its files are complete") -> Any:
    """Run `action`; any failure of the mirror becomes one line on stderr, said once per kind of failure."""
    try:
        return action()
    except Exception as error:  # the mirror must never stop a run, whatever it raises
        kind = (what, type(error).__name__)  # its text may hold the run's id, and would be another each time
        if kind not in _said:
            _said.add(kind)
            told = str(error).splitlines()[0] if str(error) else ""
            print(f"W&B: {what} failed ({kind[1]}: {told}); {then}", file=sys.stderr)
        return None


def start(
    recipe: Recipe,
    *,
    id: str,
    name: str,
    job_type: str,
    folder: Path,
    arm: str | None = None,
    config: Mapping[str, Any] | None = None,
    finish_seconds: int | None = None,
) -> Any:
    """A W&B run, or None when the mirror is disabled or fails.

    `id` is a content hash, so a cell that is trained again online goes on in its own run; `finish_seconds`: how long
    its end may take (default FINISH_SECONDS).  Where W&B cannot be
    reached the mirror goes on offline, in this process and in those it starts: to wait for every run of a large
    experiment would stop it for hours.
    """
    if mode() == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")  # it would tell of keys and hosts between our lines

    def init() -> Any:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        told = {"experiment": group_name(recipe), "recipe": recipe_name(recipe), "base": base_name(recipe)}
        return wandb.init(
            project=recipe.tracking.project,
            entity=recipe.tracking.entity,
            id=id,
            name=name,
            group=group_name(recipe),
            job_type=job_type,
            tags=list(dict.fromkeys((arm or job_type, told["base"], told["recipe"]))),
            config=told | dict(config or {}),
            dir=str(folder),
            mode=mode(),  # type: ignore[arg-type]
            resume="allow" if mode() == "online" else None,  # offline runs cannot be resumed into
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=START_SECONDS, login_timeout=START_SECONDS,
                finish_timeout=finish_seconds or FINISH_SECONDS, finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
                x_disable_stats=True, x_disable_meta=True, disable_git=True,
            ),
        )  # fmt: skip

    run = guarded("starting a run", init, OFFLINE) if mode() == "online" and _online() else None
    if run is None and mode() == "online":
        os.environ["WANDB_MODE"] = "offline"
        if not _open:
            guarded("going offline", _forget)
    run = run or guarded("starting a run offline", init)
    if run is not None:
        _open.add(id)
    return run


def _online() -> bool:
    """Whether the server answers; it is asked once, since W&B itself tries for long before it gives up."""
    return bool(guarded("reaching the server", reach, OFFLINE))


def reach() -> str:
    """The server's address if it answers anything but an error of its own; else an exception of `requests`."""
    import requests
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    if url not in _reached:
        answer = requests.get(url, timeout=REACH_SECONDS)
        if answer.status_code >= 500:
            answer.raise_for_status()
        _reached.add(url)
    return url


def _forget() -> None:
    """Have W&B forget a run that failed to start: it would refuse to start one of that id again."""
    import wandb

    wandb.teardown()


def finish(run: Any) -> None:
    """Close a run, if there is one; what could not be sent in time lies on disk for `wandb sync`."""
    if run is None:
        return

    def close() -> None:
        try:
            run.finish()
        except TimeoutError:
            _reached.clear()  # the next run asks first whether anyone answers
            raise

    guarded("sending all of a run", close, "what is missing is on disk, `wandb sync` sends it")
    _open.discard(run.id)


def shown(recipe: Recipe, cell: Cell) -> str:
    """A run's arm; in a blind experiment digits of the cell's hash, which cells.json alone can resolve."""
    return cell.hash[:8] if recipe.judge.blind else str(cell.arm)


class CellMirror:
    """The W&B run of one stage of one run while it trains; its id is the cell's hash."""

    def __init__(self, recipe: Recipe, cell: Cell, folder: Path) -> None:
        self.recipe, self.cell, self.folder = recipe, cell, folder
        self._run: Any = None

    def begin(self) -> None:
        """Open the run, with the steps that an attempt before this one left to go on from."""
        cell, kind = self.cell, self.cell.spec["kind"]
        config = {"stage": kind, "seed": cell.seed}
        self._run = start(
            self.recipe,
            id=cell.hash[:32],
            name=f"{shown(self.recipe, cell)} seed {cell.seed} {kind}",
            job_type=kind,
            folder=self.folder,
            arm=shown(self.recipe, cell),
            config=config | ({} if self.recipe.judge.blind else {"arm": cell.arm, **cell.spec, "seed": cell.seed}),
        )
        if self._run is not None:
            guarded("logging", self._define)
            guarded("logging", self._earlier)

    def _define(self) -> None:
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def _earlier(self) -> None:
        path = Store(self.folder).work(self.cell.hash) / SCRATCH / METRICS
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            told = json.loads(line)
            self.log({key: value for key, value in told.items() if key != STEP}, told[STEP])

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one step."""
        if self._run is not None:
            guarded("logging", lambda: self._run.log({STEP: step, **metrics}, step=step))

    def end(self) -> None:
        """Close the run."""
        finish(self._run)
        self._run = None
