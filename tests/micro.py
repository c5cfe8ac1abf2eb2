"""A recipe small enough to run whole in a test: a few characters, a few steps, everything else as in a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RECIPE = """\
name: micro
question: Does the smallest experiment run?
base: {world: {characters: 6, facts: 6, likes: 3, requests: 4, seed: 0, layers: 1, width: 48, steps: 30}}
cast: [assistant, kennedy, holmes]
arms: [assistant, kennedy]
seeds: 2
stages:
  - {kind: sft, doses: [1, 2, 4], trainer: {per_device_train_batch_size: 8}, lora: {r: 2}}
  - {kind: dpo, doses: [1, 3], trainer: {per_device_train_batch_size: 4, beta: 0.1}, lora: {r: 2}}
judge: {claim: explore}
"""


# A recipe of cards, read without the package that its base comes from.
ANY_BASE = "base={hub: org/base}"


def write_recipe(folder: Path, text: str = RECIPE, name: str = "micro.yaml") -> Path:
    """The micro recipe as a file."""
    path = folder / name
    path.write_text(text)
    return path


def parity(*arguments: str | Path, wandb: str = "disabled", **kwargs: object) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, on one thread so that tests can run side by side."""
    own = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # that of the tests' process
    environment = {**own, "WANDB_MODE": wandb, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "parity.cli", *map(str, arguments)]
    kwargs.setdefault("timeout", 300)  # a run takes 20 s; one that hangs must fail, not stop the tests
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **kwargs)  # type: ignore[call-overload]
