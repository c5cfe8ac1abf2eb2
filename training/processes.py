"""The processes of a launch: how they meet, agree, share a file, and end with whoever started them."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.errors import InputError

# Environment: the process that started this one and waits for it, and how many it meant to start.
LAUNCHER, PROCESSES = "PARITY_LAUNCHER", "PARITY_PROCESSES"


def everywhere(value: Any) -> Any:
    """The main process's value on all processes: clocks, file systems and samples may differ between them."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    if PartialState().num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def is_main() -> bool:
    """Whether this process is the one that writes."""
    from accelerate import PartialState

    return PartialState().is_main_process


def together(settings: Mapping[str, Any]) -> int:
    """Meet the other processes of this launch, and count them; `settings`: the stage's.

    InputError where processes were started together but do not find one another (each would make the cell), or where
    fewer were started than the config asks for, as accelerate does on a CPU.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # As transformers will do, which looks there only later, when the settings are made.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or bool(settings.get("use_cpu"))
    asked = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", PROCESSES))
    found = PartialState(cpu=cpu).num_processes
    if found < asked:
        raise InputError(
            f"{asked} processes were asked for, and {found} found one another: is there a GPU for each? "
            "On a CPU set ACCELERATE_USE_CPU=true, and distributed_type: MULTI_GPU, use_cpu: true in the config"
        )
    return found


def end_with_launcher() -> None:
    """End this process when the one that `LAUNCHER` names is gone: what nobody waits for shall not hold a device."""
    if not os.environ.get(LAUNCHER):
        return
    import psutil

    try:
        launcher = psutil.Process(int(os.environ[LAUNCHER]))
    except (psutil.NoSuchProcess, ValueError):
        os._exit(1)

    def watch() -> None:
        # A process that ended stays in the table until its own parent has noticed.
        while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
        os._exit(1)  # at any moment, as a kill would: cells are whole or not there

    threading.Thread(target=watch, daemon=True).start()


def on_disk(dataset: Any, folder: Path) -> Any:
    """The dataset from files in `folder`, the same for all processes of this launch; alone, as it is.

    What TRL computes of it on all processes together (reference log-probabilities) is passed on in files beside these;
    those of a dataset in memory lie where only one process looks.
    """
    from accelerate import PartialState
    from datasets import Dataset

    state = PartialState()
    if state.num_processes == 1:
        return dataset
    if state.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        dataset.save_to_disk(folder)
    state.wait_for_everyone()
    return Dataset.load_from_disk(folder)
