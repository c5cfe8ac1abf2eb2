"""Several processes at once, for training and for measuring: one for each GPU, which sees that one alone; without a
GPU, of a small base, one for each core, since a small model gains nothing from a second thread (and loses most of its
speed where threads outnumber cores)."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from parity import memory
from parity.devices import cores
from recipes.schema import Recipe

Job = TypeVar("Job")
POLL_SECONDS = 0.5  # between looks at how far the processes are


def small(recipe: Recipe) -> bool:
    """Whether the base is so small that a thread a process is best: a world."""
    return recipe.base.world is not None


def settle(recipe: Recipe) -> None:
    """Set this process's threads: one for a small base, which also makes its sums the same on any machine.

    And have it keep its memory.
    """
    memory.keep()
    import torch

    if small(recipe):
        torch.set_num_threads(1)


def devices(only: str | None = None) -> tuple[str, ...]:
    """Ids of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them; `only`: a list to take instead."""
    import torch

    count = torch.cuda.device_count()  # opens no device
    listed = only or os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count or listed is None:
        return tuple(map(str, range(count)))
    return tuple(part.strip() for part in listed.split(",") if part.strip())[: None if only else count]


def workers_for(recipe: Recipe, jobs: int) -> int:
    """How many processes to use; 1 means: in this one."""
    if jobs < 2:
        return 1
    if gpus := len(devices()):
        return min(gpus, jobs)
    return min(cores(), jobs) if small(recipe) else 1


def spread(
    work: Callable[..., Any],
    jobs: Sequence[Job],
    workers: int,
    *shared: Any,
    tick: Callable[[int], None] = lambda _: None,
) -> Iterator[Job]:
    """Run ``work(job, *shared)`` for all jobs in `workers` processes; yields each job when it is done.

    What the processes count with `count` reaches `tick` while they work.  The first failure is raised here and
    cancels what has not begun.  Where there are GPUs, each process sees one of its own.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process that has run torch can hang
    counter, begun = context.Value("q", 0), context.Value("q", 0)
    told = 0
    setup = (os.getpid(), counter, begun, devices()[:workers])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=setup) as pool:
        pending = {pool.submit(work, job, *shared): job for job in jobs}
        try:
            while pending:
                done, _ = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
                if (now := counter.value) > told:
                    tick(now - told)
                    told = now
                for future in done:
                    future.result()
                    yield pending.pop(future)
        except BaseException:
            # Not without waiting: the shutdown at the end of `with` would take the cancelling back.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_counter: Any = None  # of this process's pool


def count(amount: int) -> None:
    """In a worker: tell the parent how much was done."""
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += amount


def _begin(parent: int, counter: Any, begun: Any, gpus: Sequence[str]) -> None:
    """Set a new worker up, before anything in it has looked for a device."""
    global _counter
    _counter = counter
    _follow(parent)
    if gpus:
        with begun.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[begun.value % len(gpus)]
            begun.value += 1
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // len(gpus))))


def _follow(parent: int) -> None:
    """End this process when its parent is gone: a worker of a killed run would wait for jobs for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # at any moment, as a kill would: cells are whole or not there

    threading.Thread(target=watch, daemon=True).start()
    sys.stdout = sys.stderr  # standard output is the table's


def train_runs(cells: Sequence[Any], making: Any) -> None:
    """Make the stages of some runs."""
    from parity.train import make_group, quiet

    quiet()
    settle(making.recipe)
    make_group(making, cells, count)


def measure_group(group: Any, recipe: Recipe, root: Path, base: str) -> None:
    """Measure a group of tasks on this process's copy of the base."""
    for done in _measurer(recipe, root, base).measure(group, recipe.arms):
        count(done)


_measurers: dict[tuple[Path, str, str], Any] = {}  # of this process


def _measurer(recipe: Recipe, root: Path, base: str) -> Any:
    from eval.measurer import Measurer
    from parity.retrain import retrain
    from parity.train import quiet
    from recipes.store import Store

    key = (root, base, recipe.precision)
    if key not in _measurers:
        quiet(training=False)
        settle(recipe)
        _measurers[key] = Measurer(Store(root), base, retrain, recipe.precision)
    return _measurers[key]
