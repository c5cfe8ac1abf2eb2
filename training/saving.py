"""Trainer callbacks that write a cell: the adapter at each dose, metrics by step, and checkpoints of a long stage."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from recipes.store import FAILED, write_bytes
from training.processes import everywhere, is_main


def _adapted(model: Any) -> bool:
    return hasattr(model, "peft_config")


def sharded(model: Any) -> bool:
    """Whether no process holds the whole model: FSDP's parameters are DTensors, those of ZeRO-3 have a `ds_id`."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def whole_state(model: Any, keep: bool) -> dict[str, Any]:
    """State dict of a sharded model on the CPU, whole, of an adapted one what is trained; empty unless `keep`.

    To be called by all processes.  One parameter is put together at a time, so that no device needs room for all.
    """
    found: dict[str, Any] = {}
    by_id: dict[int, Any] = {}  # tied parameters stay one tensor, which is then saved once
    for name, value in model.state_dict(keep_vars=True).items():
        if not (value.requires_grad or not _adapted(model)):
            continue
        if id(value) not in by_id:
            full = _whole(value)
            by_id[id(value)] = full.detach().to("cpu", copy=True) if keep else None
        if keep:
            found[name] = by_id[id(value)]
    return found


def _whole(value: Any) -> Any:
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if hasattr(value, "ds_id"):
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        full = safe_get_full_fp32_param(value) if value.requires_grad else None  # trained in float32, whatever it is
        if full is not None:
            return full
        with deepspeed.zero.GatheredParameters([value]):
            return value.detach().clone()
    return value


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
        """Put doses and metrics into the cell; RuntimeError when a dose of a run that went well was not saved.

        Checkpoints go first, and of each first what says that it is whole: killed meanwhile, the stage is made anew
        and not resumed without the doses that were moved.
        """
        for checkpoint in self.scratch.glob("checkpoint-*"):
            (checkpoint / self.metrics.name).unlink(missing_ok=True)
            shutil.rmtree(checkpoint, ignore_errors=True)
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
        if dose is None:
            return
        # Only the trained adapter: TRL's frozen copy of the starting point ("ref") is the parent's last dose.
        # Embeddings are the base's: left to itself PEFT would ask a hub whether their size has changed.
        extra: dict[str, Any] = {"selected_adapters": ["default"], "save_embedding_layers": False}
        extra = extra if _adapted(model) else {}
        if sharded(model):  # all processes hand over what they hold
            extra["state_dict"] = whole_state(model, state.is_world_process_zero)
        if state.is_world_process_zero:
            model.save_pretrained(self.scratch / f"dose-{dose}", **extra)
            # An empty card with a machine's path.
            (self.scratch / f"dose-{dose}" / "README.md").unlink(missing_ok=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Append one line."""
        # Left out is what a resumed stage would count from its checkpoint on, the closing summary and TRL's tokens, and
        # what no two runs share, the time a step took.
        if not logs or "train_runtime" in logs:
            return
        for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise Diverged(state.global_step, f"{what} is not a finite number")
        if not state.is_world_process_zero:
            return
        kept = {k: float(v) for k, v in logs.items() if k not in ("num_tokens", "step_time") and v is not None}
        with open(self.metrics, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": state.global_step, **kept}, sort_keys=True) + "\n")


class Resume(TrainerCallback):
    """Checkpoints a stage once in `seconds`; short stages never write one."""

    def __init__(self, doses: Doses, seconds: float) -> None:
        self.doses, self.seconds = doses, seconds
        self.last = time.monotonic()

    def point(self) -> str | None:
        """The checkpoint to resume from, if any, after putting the metrics back as they were then.

        To be called by all processes; the main one looks.
        """
        return everywhere(self._point() if is_main() else None)

    def _point(self) -> str | None:
        scratch, metrics = self.doses.scratch, self.doses.metrics
        kept = [p for p in scratch.glob("checkpoint-*") if (p / metrics.name).is_file()]  # others are not whole
        by_step = {int(p.name.rpartition("-")[2]): p for p in kept}
        if not by_step:
            metrics.unlink(missing_ok=True)
            return None
        last = by_step[max(by_step)]
        metrics.write_bytes((last / metrics.name).read_bytes())
        return str(last)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ask for a checkpoint when it is time, by the main process's clock: all take part in one."""
        if everywhere(time.monotonic() - self.last > self.seconds):
            self.last = time.monotonic()
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the metrics so far with the checkpoint; written last, so it also says that the checkpoint is whole."""
        metrics = self.doses.metrics
        PartialState().wait_for_everyone()  # every process has written its part
        if state.is_world_process_zero and metrics.is_file():
            where = self.doses.scratch / f"checkpoint-{state.global_step}" / metrics.name
            write_bytes(where, metrics.read_bytes())
            for older in self.doses.scratch.glob("checkpoint-*"):  # one is enough, and each may fill a disk
                if older != where.parent:
                    shutil.rmtree(older, ignore_errors=True)
