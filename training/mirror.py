"""A trainer callback that shows a stage's curves in W&B while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from recipes.schema import Recipe
from training import tracking
from training.cells import Cell


class Mirror(TrainerCallback):
    """Logs what the trainer logs (loss, rewards/margins, …) to the run whose id is the cell's hash."""

    def __init__(self, recipe: Recipe, cell: Cell, folder: Path) -> None:
        self.recipe, self.cell, self.folder = recipe, cell, folder
        self.run: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the run."""
        if state.is_world_process_zero:
            config = {"arm": self.cell.arm, "seed": self.cell.seed, **self.cell.spec}
            name = f"{self.cell.arm} seed {self.cell.seed} {self.cell.spec['kind']}"
            self.run = tracking.start(
                self.recipe,
                id=self.cell.hash[:32],
                name=name,
                job_type=self.cell.spec["kind"],
                folder=self.folder,
                config=config,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Log one line."""
        if self.run is not None and logs:
            tracking.guarded("logging", lambda: self.run.log(dict(logs), step=state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the run."""
        tracking.finish(self.run)
        self.run = None
