"""What is to be measured on cells, and where its rows lie: tasks, the groups they are measured in, and their files.

``measurements/<probe>@<version>-<context>.parquet`` beside a cell, each with its SHA-256 next to it, where the
context is the hash of what was asked (scene, personas, arm).  A file that is missing or damaged is measured again;
a new probe measures itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.probe import Probe
from recipes.hashing import digest
from recipes.references import favoured
from recipes.scene import Scene
from recipes.store import MEASUREMENTS, Store, sha256, write_bytes, write_text

if TYPE_CHECKING:
    import polars as pl

    from eval.measure import Suite, Value

ENGINE_VERSION = 3  # raised when the engine changes what a request yields
BASE = "base"  # arm of the base model as it is
PROMPTED = "prompted/"  # arm of the base model with a persona's preface in front
TOGETHER = 32  # models measured together: what of their adapters is in memory, and what a kill costs at most
SAMPLES = "samples"  # kept beside the probes' rows in the same way
COLUMNS = [
    "cell", "arm", "seed", "stage", "dose", "probe", "version", "measure", "item", "persona", "role", "slot", "value",
    "unit", "n_tokens", "outcome",
]  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One cell as one arm and seed of an experiment see it."""

    cell: str  # hash
    base: str  # hash of the base model's cell
    arm: str
    seed: int
    stage: str  # "base" for the base and prompted arms
    doses: tuple[int, ...]  # (0,) for the base and prompted arms
    full: bool = False  # doses are whole models, not adapters
    sampled: bool = False  # whether generations of the last dose are kept too
    precision: str = "highest"  # of products, see `Engine`

    def file(self, store: Store, name: str, version: int, scene: Scene, arms: Sequence[str]) -> Path:
        """Where this task's rows of one probe lie."""
        key = (id(scene), self.arm, self.stage, self.doses, self.precision, tuple(sorted(arms)))
        if key not in _contexts:
            asked = [ENGINE_VERSION, asdict(scene), self.arm, self.stage, list(self.doses), sorted(arms)]
            context = digest(asked if self.precision == "highest" else [*asked, self.precision])
            _contexts[key] = (scene, context)
        return store.cell(self.cell) / MEASUREMENTS / f"{name}@{version}-{_contexts[key][1][:16]}.parquet"


# A scene is hashed once per task, not once per file.  It is kept, so that its id stays its own.
_contexts: dict[tuple[Any, ...], tuple[Scene, str]] = {}
Model = tuple[Task, int]  # and a dose


@dataclass(frozen=True)
class Group:
    """Tasks that are measured together since they are asked the same, and the files that are wanted of them.

    `lacking`: files by task and probe's name (or SAMPLES).  A group is whole however little of it is lacking: what
    is computed together moves the last bits of a number, and what was cut off must not.  `unit`: what a probe costs on
    a model.
    """

    scene: Scene
    tasks: tuple[Task, ...]
    lacking: Mapping[tuple[Task, str], Path]
    unit: int = 1

    @property
    def models(self) -> list[Model]:
        """Every dose of every task."""
        return [(task, dose) for task in self.tasks for dose in task.doses]

    @property
    def probes(self) -> list[str]:
        """Names of the probes that are lacking anywhere, in order."""
        return sorted({name for _, name in self.lacking} - {SAMPLES})

    @property
    def cost(self) -> int:
        """Doses times probes, in units: what `Measurer.measure` counts."""
        return self.unit * len(self.models) * len(self.probes)

    @property
    def label(self) -> str:
        """What it is, for who waits for it."""
        only = f", {self.probes[0]}" if len(self.probes) == 1 else ""
        many = len(self.models)
        return f"{many} model{'s' * (many > 1)} of seed {self.scene.seed}{only}"

    def apart(self, costs: Mapping[str, int]) -> list[Group]:
        """A group for each probe, which costs what `costs` says."""
        names = sorted({name for _, name in self.lacking})
        return [
            replace(self, lacking={k: v for k, v in self.lacking.items() if k[1] == name}, unit=costs.get(name, 1))
            for name in names
        ]


def groups_of(
    tasks: Sequence[tuple[Task, Scene]], store: Store, arms: Sequence[str], probes: Sequence[Probe],
    costs: Mapping[str, int] | None = None,
) -> list[Group]:  # fmt: skip
    """Groups of at most TOGETHER models (or of one task) in which a file is lacking; each scene is one seed's.

    How tasks are grouped depends on which tasks there are, not on what is lacking.  `costs`: of each probe on a model
    where that takes long.  Groups are then of one probe each, in the order of `probes` and then of the seeds, so that
    a kill costs one probe of one seed; not where whole models are measured, which would be loaded for each probe.
    """
    scenes: dict[tuple[int, str | None], list[list[tuple[Task, Scene]]]] = {}
    for task, scene in tasks:
        parts = scenes.setdefault((scene.seed, scene.prompted), [[]])
        if parts[-1] and sum(len(t.doses) for t, _ in parts[-1]) + len(task.doses) > TOGETHER:
            parts.append([])
        parts[-1].append((task, scene))
    found = []
    for part in (part for parts in scenes.values() for part in parts):
        scene = part[0][1]
        places = {
            (task, name): task.file(store, name, version, scene, arms)
            for task, _ in part
            for name, version in [*((p.name, p.version) for p in probes), *([(SAMPLES, 1)] if task.sampled else [])]
        }
        lacking = {key: path for key, path in places.items() if not complete(path)}
        if lacking:
            found.append(Group(scene, tuple(task for task, _ in part), lacking))
    if costs is None or any(task.full for task, _ in tasks):
        return found
    order = [*(p.name for p in probes), SAMPLES]
    split = [(name, one) for group in found for one in group.apart(costs) for _, name in [next(iter(one.lacking))]]
    return [one for _, one in sorted(split, key=lambda item: order.index(item[0]))]


def whole(path: Path) -> bool:
    """Whether a measurement file is there and is what its checksum says."""
    beside = _checksum(path)
    return path.is_file() and beside.is_file() and beside.read_bytes().strip() == sha256(path).encode()


def complete(path: Path) -> bool:
    """Whether a file of rows is whole, and so are the texts that belong to it, if it has any."""
    texts = texts_of(path)
    return whole(path) and (whole(texts) or not (texts.is_file() or _checksum(texts).is_file()))


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def role(persona: str | None, arm: str, arms: Sequence[str]) -> str | None:
    """What a persona is in an arm: favoured, other (favoured in another arm), bystander; None for the arm itself."""
    if persona is None:
        return None
    own = persona == favoured(arm.removeprefix(PROMPTED))
    return "favoured" if own else "other" if persona in arms else "bystander"


def where(task: Task, dose: int) -> dict[str, Any]:
    """The columns that say which model a row is about."""
    return {"cell": task.cell, "arm": task.arm, "seed": task.seed, "stage": task.stage, "dose": dose}


def table(task: Task, suite: Suite, by_dose: Sequence[Sequence[Value]], arms: Sequence[str]) -> pl.DataFrame:
    """Rows of one probe at every dose of a task, column by column."""
    import polars as pl

    values = [value for of_dose in by_dose for value in of_dose]
    columns: dict[str, Any] = {key: [value] * len(values) for key, value in where(task, 0).items()}
    columns["dose"] = [dose for dose in task.doses for _ in suite.fixed]
    columns |= {key: [fixed[key] for fixed in suite.fixed] * len(task.doses) for key in suite.fixed[0]}
    columns["role"] = [role(persona, task.arm, arms) for persona in columns["persona"]]
    columns["value"], columns["n_tokens"], columns["outcome"] = zip(*values, strict=True)
    kinds = {"seed": pl.Int64, "dose": pl.Int64, "version": pl.Int64, "value": pl.Float64, "n_tokens": pl.Int64}
    return pl.DataFrame({key: columns[key] for key in COLUMNS}, {key: kinds.get(key, pl.String) for key in COLUMNS})


def texts_of(path: Path) -> Path:
    """Where the texts lie that a model wrote for the rows in `path`; there may be none."""
    return path.with_name(f"{path.stem}.texts{path.suffix}")


def text_table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows of texts, each with its model's columns."""
    import polars as pl

    return pl.DataFrame(rows, schema_overrides={"persona": pl.String}, infer_schema_length=None)  # may be all null


def save(frame: pl.DataFrame, path: Path) -> None:
    """Write Parquet and its checksum, each whole or not at all."""
    from io import BytesIO

    held = BytesIO()
    frame.write_parquet(held)
    write_bytes(path, held.getvalue())
    write_text(_checksum(path), sha256(path) + "\n")


def load(paths: Sequence[Path]) -> pl.DataFrame:
    """All rows of measurement files, in the order of the paths."""
    import polars as pl

    return pl.concat([pl.read_parquet(path) for path in paths], how="vertical_relaxed") if paths else pl.DataFrame()
