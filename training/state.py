"""The checkpoint of a lockstep group: adapters, optimiser moments and step, in safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from recipes.store import write_bytes
from training.lockstep import Failure, Lockstep

FILE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(lockstep: Lockstep, folder: Path) -> None:
    """Write the state whole or not at all, over the one before."""
    tensors = {}
    for i, parameter in enumerate(lockstep.parameters):
        tensors[f"{i}"] = parameter.detach().contiguous()
        for name in MOMENTS:
            tensors[f"{i}.{name}"] = lockstep.optimizer.state[parameter][name]
    failures = {str(k): vars(failure) for k, failure in lockstep.failures.items()}
    told = {"step": str(lockstep.step), "failures": json.dumps(failures)}
    write_bytes(folder / FILE, save(tensors, metadata=told))


def restore(lockstep: Lockstep, folder: Path, logs: Sequence[Path]) -> None:
    """Go on from the state in `folder`, if there is one, else from the beginning; metrics are cut to its step."""
    path = folder / FILE
    if not path.is_file():
        for log in logs:
            shutil.rmtree(log.parent, ignore_errors=True)  # what a killed attempt had before its first checkpoint
        return
    lockstep.compute_reference()  # of where training began, so before the adapters move
    with safe_open(path, framework="pt", device=str(lockstep.device)) as held:
        told = held.metadata()
        step = int(told["step"])
        for i, parameter in enumerate(lockstep.parameters):
            parameter.data.copy_(held.get_tensor(f"{i}"))
            lockstep.optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                **{name: held.get_tensor(f"{i}.{name}") for name in MOMENTS},
            }
    lockstep.resume_at(step, {int(k): Failure(**f) for k, f in json.loads(told["failures"]).items()})
    for log in logs:
        if log.is_file():
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:step]))
