"""Trainer callbacks that write a cell: the adapter at each dose, metrics by step, and checkpoints of a long stage."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from recipes.store import FAILED


def _adapted(model: Any) -> bool:
    return hasattr(model, "peft_config")


class Diverged(Exception):
    """A run whose loss or gradient is no longer a finite number, with the step (from 1) at which that was seen."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} at step {step}")
        self.step, self.what = step, what


class Doses(TrainerCallback):
    """Saves ``dose-<k>/`` when a dose's step is reached and appends every log line to ``metrics.jsonl``.

    Both lie in `scratch` until the stage is done, so that a resumed stage finds what it had.
    """

    def __init__(self, scratch: Path, doses: dict[int, int]) -> None:
        self.scratch, self.doses = scratch, doses
        self.metrics = scratch / "metrics.jsonl"

    def move_to(self, folder: Path) -> None:
        """Put doses and metrics into the cell; RuntimeError when a dose of a run that went well was not saved."""
        for dose in self.doses.values():
            saved = self.scratch / f"dose-{dose}"
            if any(saved.glob("*.safetensors")):
                saved.rename(folder / saved.name)
            elif not (folder / FAILED).is_file():
                raise RuntimeError(f"dose {dose} was not saved")
        if self.metrics.is_file():
            self.metrics.rename(folder / self.metrics.name)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Save when this step is a dose."""
        dose = self.doses.get(state.global_step)
        if dose is None or not state.is_world_process_zero:
            return
        # Only the trained adapter: TRL's frozen copy of the starting point ("ref") is the parent's last dose.
        # Embeddings are the base's: left to itself PEFT would ask a hub whether their size has changed.
        extra = {"selected_adapters": ["default"], "save_embedding_layers": False} if _adapted(model) else {}
        model.save_pretrained(self.scratch / f"dose-{dose}", **extra)
        (self.scratch / f"dose-{dose}" / "README.md").unlink(missing_ok=True)  # an empty card with a machine's path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append one line."""
        # Left out is what a resumed stage would count from its checkpoint on: the closing summary and TRL's tokens.
        if not logs or "train_runtime" in logs:
            return
        for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise Diverged(state.global_step, f"{what} is not a finite number")
        if not state.is_world_process_zero:
            return
        kept = {k: float(v) for k, v in logs.items() if k != "num_tokens"}
        with open(self.metrics, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": state.global_step, **kept}, sort_keys=True) + "\n")


class Resume(TrainerCallback):
    """Checkpoints a stage once in `seconds`; short stages never write one."""

    def __init__(self, doses: Doses, seconds: float) -> None:
        self.doses, self.seconds = doses, seconds
        self.last = time.monotonic()

    def point(self) -> str | None:
        """The checkpoint to resume from, if any, after putting the metrics back as they were then."""
        scratch, metrics = self.doses.scratch, self.doses.metrics
        last = get_last_checkpoint(str(scratch)) if scratch.is_dir() else None
        kept = Path(last) / metrics.name if last else None
        if kept and kept.is_file():
            metrics.write_bytes(kept.read_bytes())
            return last
        metrics.unlink(missing_ok=True)
        return None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ask for a checkpoint when it is time."""
        if time.monotonic() - self.last > self.seconds:
            self.last = time.monotonic()
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the metrics so far with the checkpoint; written last, so it also says that the checkpoint is whole."""
        metrics = self.doses.metrics
        if state.is_world_process_zero and metrics.is_file():
            where = self.doses.scratch / f"checkpoint-{state.global_step}" / metrics.name
            where.write_bytes(metrics.read_bytes())
