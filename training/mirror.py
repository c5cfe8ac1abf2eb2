"""Trainer callbacks that tell of a stage while it trains: its curves in W&B, its steps to a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from recipes.schema import Recipe
from training.cells import Cell
from training.tracking import CellMirror, mode


class Mirror(TrainerCallback):
    """Logs what the trainer logs (loss, rewards/margins, …) to the cell's W&B run."""

    def __init__(self, recipe: Recipe, cell: Cell, folder: Path) -> None:
        self.mirror = CellMirror(recipe, cell, folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the run."""
        if state.is_world_process_zero:
            self.mirror.begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Log one line; the closing summary is no step's."""
        if logs and "train_runtime" not in logs:
            self.mirror.log(logs, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the run."""
        self.mirror.end()


class Ticks(TrainerCallback):
    """Calls ``tick(1)`` after each optimiser step."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self.tick = tick

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count."""
        self.tick(1)


def callbacks(recipe: Recipe, cell: Cell, folder: Path) -> list[Any]:
    """The mirror of one stage of one run; none where it is disabled."""
    return [] if mode() == "disabled" else [Mirror(recipe, cell, folder)]
