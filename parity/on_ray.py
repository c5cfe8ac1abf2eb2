"""Groups of runs spread over a Ray cluster whose nodes share the checkpoints folder: `parity run RECIPE --on ray`.

`training` and `measuring` give what `parity.workers.spread` is for processes of one machine: the same jobs, which know
nothing of it, and the same groups where runs are trained together, so that a run comes out the same bytes wherever it
was made.  A job's results are files in the shared folder; through Ray go only the job and how far it is.  First of all
a job looks whether its node sees the folder and has the same versions.  A worker that dies with its job, or with its
node, is given it again by Ray, RETRIES times; it goes on from what is whole.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from parity import workers
from parity.devices import cores
from parity.progress import say
from recipes.errors import InputError, Outage, one_line
from recipes.packages import PACKAGE
from recipes.schema import Recipe

Job = TypeVar("Job")
RETRIES = 3  # of a job whose worker or node was lost
OBJECTS = 1 << 27  # bytes of a local Ray's object store, which is given nothing large
PASSED = ("WANDB_MODE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")
SHOWN = 6  # names in a line about what is missing


@dataclass(frozen=True)
class Ticket:
    """What a node has to have: files with their content (or whose presence is enough), and the driver's versions."""

    files: tuple[tuple[str, str | None], ...]
    versions: Mapping[str, str]
    folder: str  # that relative paths of the recipe are of
    environment: tuple[tuple[str, str], ...]


def need() -> None:
    """InputError unless Ray is installed."""
    if find_spec("ray") is None:
        raise InputError("--on ray: the package ray is not installed; pip install '.[ray]'")


def connect() -> Any:
    """Ray, connected: to RAY_ADDRESS or the cluster that runs here, else to one of its own on this machine."""
    need()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"logging_level": "ERROR"}
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS") or "auto", **quiet)
    except ConnectionError as error:
        if os.environ.get("RAY_ADDRESS"):
            raise Outage(one_line(f"RAY_ADDRESS {os.environ['RAY_ADDRESS']}: no cluster answers")) from error
        ray.init(num_cpus=cores(), include_dashboard=False, object_store_memory=OBJECTS, **quiet)
    found = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    say(f"on ray     {nodes} nodes, {found.get('CPU', 0):.0f} CPUs, {found.get('GPU', 0):.0f} GPUs")
    return ray


def training(making: Any) -> Callable[..., Iterator[Any]]:
    """What spreads groups of cells to train, to be called as `workers.spread`; `making`: `parity.train.Making`."""
    recipe = making.recipe
    files = [Path(recipe.base.path) / "config.json"] if recipe.base.path else []
    if recipe.base.gguf and not recipe.base.gguf.startswith(PACKAGE):
        files.append(Path(recipe.base.gguf))
    if _alone(recipe):  # only a process of its own reads the recipe again
        files.append(making.recipe_file)
    return partial(_spread, recipe, making.root, _cells, tuple(path.absolute() for path in files), True)


def measuring(recipe: Recipe, root: Path) -> Callable[..., Iterator[Any]]:
    """What spreads groups of tasks to measure, to be called as `workers.spread`."""
    return partial(_spread, recipe, root, lambda group: f"measurements of seed {group.scene.seed}", (), False)


def apart(recipe: Recipe, groups: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Groups of cells as jobs: whole where their runs are trained together, else a job for each run."""
    if not _alone(recipe):
        return list(groups)
    runs: dict[Any, list[Any]] = {}
    for cell in (cell for group in groups for cell in group):
        runs.setdefault((cell.arm, cell.seed), []).append(cell)
    return [tuple(run) for run in runs.values()]


def _alone(recipe: Recipe) -> bool:
    """Whether no stage is trained in lockstep, so that runs have nothing of each other."""
    from training.supported import backend_of

    return all(backend_of(recipe, stage)[0] != "lockstep" for stage in recipe.stages)


def _cells(group: Sequence[Any]) -> str:
    """A group of cells by its first run and their number."""
    more = len({(cell.arm, cell.seed) for cell in group}) - 1
    return group[0].label + (f" and {more} other runs with it" if more else "")


def _spread(
    recipe: Recipe, root: Path, name: Callable[[Any], str], files: Sequence[Path], training: bool,
    work: Callable[..., Any], jobs: Sequence[Job], workers: int, *shared: Any,
    tick: Callable[[int], None] = lambda _: None,
) -> Iterator[Job]:  # fmt: skip
    ray = connect()
    seal = root / f".ray-{os.getpid()}-{os.urandom(4).hex()}"  # what this run wrote, and no other store has
    root.mkdir(parents=True, exist_ok=True)
    seal.write_text(seal.name, encoding="utf-8")
    try:
        places = ((str(seal), seal.name), *((str(path), None) for path in files))
        environment = tuple((key, os.environ[key]) for key in PASSED if key in os.environ)
        yield from _run(
            ray, recipe, training, Ticket(places, program(), os.getcwd(), environment), name, work, jobs, shared, tick
        )
    finally:
        seal.unlink(missing_ok=True)


def _run(
    ray: Any, recipe: Recipe, training: bool, ticket: Ticket, name: Callable[[Any], str],
    work: Callable[..., Any], jobs: Sequence[Job], shared: tuple[Any, ...], tick: Callable[[int], None],
) -> Iterator[Job]:  # fmt: skip
    """Hand out all jobs, and yield each when it is done; the first failure cancels what has not begun."""
    board = ray.remote(num_cpus=0, max_restarts=0)(Board).remote()
    remote = ray.remote(max_retries=RETRIES, retry_exceptions=False, **resources(ray, recipe, training))(_job)
    pending = {remote.remote(ticket, board, k, work, job, shared): job for k, job in enumerate(jobs)}
    told = 0
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=workers.POLL_SECONDS)
            with suppress(ray.exceptions.RayError):  # its node may be lost: then nothing is told, and all goes on
                if (now := ray.get(board.total.remote(), timeout=10)) > told:
                    tick(now - told)
                    told = now
            for reference in done:
                ray.get(reference)
                yield pending.pop(reference)
    except ray.exceptions.RayTaskError as error:  # the job itself failed: as it would have here
        _cancel(ray, pending)
        raise error.cause from error
    except ray.exceptions.RayError as error:
        _cancel(ray, pending)
        names = [name(job) for job in pending.values()]
        listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        what = f"Ray lost a worker {RETRIES + 1} times ({type(error).__name__}); missing: {listed}"
        raise Outage(one_line(f"{what}; the same command goes on from here", 600)) from error
    except BaseException:
        _cancel(ray, pending)
        raise
    finally:
        with suppress(Exception):
            ray.kill(board)


def _cancel(ray: Any, pending: Mapping[Any, Any]) -> None:
    for reference in pending:
        with suppress(Exception):
            ray.cancel(reference, force=True)


def resources(ray: Any, recipe: Recipe, training: bool) -> dict[str, float]:
    """What a job asks Ray for: a GPU where the cluster has any, or all of a node's for a configuration that spreads a
    cell over them; else a core for a small base, and all of a node's for any other."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [int(node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
    if gpus:
        return {"num_gpus": min(gpus) if training and spreads(recipe) else 1, "num_cpus": 1}
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    return {"num_cpus": 1 if workers.small(recipe) else min(cores, default=1)}


def spreads(recipe: Recipe) -> bool:
    """Whether a cell of the recipe is trained by several processes."""
    from parity.estimate import accelerate_of

    return recipe.launch.backend == "process" and accelerate_of(recipe)[1] != "NO"


def program() -> dict[str, str]:
    """The versions of what makes the results, by name: packages, and the lab's own, which cells are told apart by."""
    from eval.cells import ENGINE_VERSION
    from eval.probes import discover
    from training.cells import BASE_VERSION, STAGE_VERSION

    own = {"base": BASE_VERSION, "stage": STAGE_VERSION, "engine": ENGINE_VERSION}
    probes = {f"probe {probe.name}": probe.version for probe in discover().values()}
    packages = {name: metadata.version(name) for name in PACKAGES}
    return packages | {f"parity's {name}": str(version) for name, version in (own | probes).items()}


class Board:
    """How far each job is, in the units that it counts in; an actor.  What is begun again counts anew."""

    def __init__(self) -> None:
        self.tries: dict[int, str] = {}
        self.done: dict[int, int] = {}

    def add(self, job: int, attempt: str, amount: int) -> None:
        """`amount` more was done of a job in that attempt."""
        if self.tries.get(job) != attempt:
            self.tries[job], self.done[job] = attempt, 0
        self.done[job] += amount

    def total(self) -> int:
        """Of all jobs."""
        return sum(self.done.values())


class _Counter:
    """In a worker: in the place of the number that processes of one machine share, see `workers.count`."""

    def __init__(self, board: Any, job: int) -> None:
        self._board, self._job, self._attempt, self._value = board, job, os.urandom(8).hex(), 0
        self._lock = threading.Lock()

    def get_lock(self) -> threading.Lock:
        """Held while the number is changed."""
        return self._lock

    @property
    def value(self) -> int:
        """What was counted."""
        return self._value

    @value.setter
    def value(self, value: int) -> None:
        self._board.add.remote(self._job, self._attempt, value - self._value)
        self._value = value


def _job(ticket: Ticket, board: Any, number: int, work: Callable[..., Any], job: Any, shared: tuple[Any, ...]) -> None:
    """In a worker: one job, once it is known that the node has what it takes."""
    check(ticket)
    os.environ.update(ticket.environment)
    if Path(ticket.folder).is_dir():
        os.chdir(ticket.folder)
    sys.stdout = sys.stderr  # standard output is the table's
    workers._counter = _Counter(board, number)
    work(job, *shared)


def check(ticket: Ticket) -> None:
    """InputError that names this node where it does not see the shared files or has other versions."""
    node = f"node {socket.gethostname()}"
    for name, content in ticket.files:
        path = Path(name)
        if not path.is_file() or (content is not None and path.read_text(encoding="utf-8") != content):
            lacks = path.parent if content is not None else path
            raise InputError(one_line(f"--on ray: {node} does not see {lacks}; all nodes need it at the same place"))
    own = program()
    for what in sorted({*own, *ticket.versions}):
        has, wanted = (of.get(what, "none") for of in (own, ticket.versions))
        if has != wanted:
            raise InputError(one_line(f"--on ray: {node} has {what} {has}, and {wanted} is here; install the same"))
