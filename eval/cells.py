"""Measuring cells and reading their measurements back: files in, files out, one model load for a whole base.

``measurements/<probe>@<version>-<context>.parquet`` beside a cell, each with its SHA-256 next to it, where the
context is the hash of what was asked (scene, personas, arm).  A file that is missing or damaged is measured again;
a new probe measures itself alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.probe import Probe
from recipes.hashing import digest
from recipes.scene import Scene
from recipes.store import MEASUREMENTS, Store, sha256, write_bytes, write_text

if TYPE_CHECKING:
    import polars as pl

ENGINE_VERSION = 2  # raised when the engine changes what a request yields
PROMPTED = "prompted/"  # arm of the base model with a persona's preface in front
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

    def file(self, store: Store, name: str, version: int, scene: Scene, arms: Sequence[str]) -> Path:
        """Where this task's rows of one probe lie."""
        context = digest([ENGINE_VERSION, asdict(scene), self.arm, self.stage, list(self.doses), sorted(arms)])
        return store.cell(self.cell) / MEASUREMENTS / f"{name}@{version}-{context[:16]}.parquet"


def missing(task: Task, store: Store, scene: Scene, arms: Sequence[str], probes: Sequence[Probe]) -> list[Probe]:
    """Probes whose rows of this task are not there or not whole."""
    return [p for p in probes if not whole(task.file(store, p.name, p.version, scene, arms))]


def whole(path: Path) -> bool:
    """Whether a measurement file is there and is what its checksum says."""
    beside = _checksum(path)
    return path.is_file() and beside.is_file() and beside.read_text().strip() == sha256(path)


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


class Measurer:
    """A base model in memory that takes on one adapter after another."""

    def __init__(self, store: Store, base: str) -> None:
        from transformers import AutoTokenizer

        self.store, self.base = store, base
        self.tokenizer = AutoTokenizer.from_pretrained(store.cell(base))
        self._plain: Any = None
        self._adapted: Any = None

    def measure(self, task: Task, scene: Scene, arms: Sequence[str], probes: Sequence[Probe]) -> Iterator[int]:
        """Write the rows of `probes`; yields each dose when it is done, and writes after the last."""
        from eval.measure import Suite, samples

        # A plan per probe: how requests are packed moves the last bits, and a probe's numbers must not depend on
        # which others were still to be measured when a run was cut off or a probe was added.
        suites = {probe.name: Suite(scene, [probe], personas=arms) for probe in probes}
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in suites}
        said: list[dict[str, Any]] = []
        for dose in task.doses:
            engine = self._engine(task, dose)
            where = {"cell": task.cell, "arm": task.arm, "seed": task.seed, "stage": task.stage, "dose": dose}
            for name, suite in suites.items():
                found = suite.rows(engine, self._base() if suite.of_base else None)
                rows[name] += [{**where, **row, "role": role(row["persona"], task.arm, arms)} for row in found]
            if task.sampled and dose == task.doses[-1]:
                said += [{**where, **row} for row in samples(engine, scene, arms)]
            yield dose
        for probe in probes:
            place = task.file(self.store, probe.name, probe.version, scene, arms)
            save(_frame(rows[probe.name]).select(COLUMNS), place)
        if task.sampled:
            save(_frame(said), task.file(self.store, SAMPLES, 1, scene, arms))

    def _engine(self, task: Task, dose: int) -> Any:
        from eval.engine import Engine

        if not dose:
            return self._base()
        folder = self.store.cell(task.cell) / f"dose-{dose}"
        return Engine(self._load(folder), self.tokenizer) if task.full else self._with_adapter(folder)

    def _base(self) -> Any:
        from eval.engine import Engine

        if self._plain is None:
            self._plain = Engine(self._load(self.store.cell(self.base)), self.tokenizer)
        return self._plain

    def _load(self, folder: Path) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        return model.to(device).eval()

    def _with_adapter(self, folder: Path) -> Any:
        """The engine of the base with the adapter of `folder`; weights are put in place, the plan stays."""
        from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

        from eval.engine import Engine

        config = (folder / "adapter_config.json").read_text()
        if self._adapted is None or self._adapted[0] != config:
            base = self._load(self.store.cell(self.base))
            self._adapted = (config, Engine(PeftModel.from_pretrained(base, folder).eval(), self.tokenizer))
        engine = self._adapted[1]
        set_peft_model_state_dict(engine.model, load_peft_weights(str(folder), device="cpu"))
        return engine


def role(persona: str | None, arm: str, arms: Sequence[str]) -> str | None:
    """What a persona is in an arm: favoured, other (favoured in another arm), bystander; None for the arm itself."""
    if persona is None:
        return None
    return "favoured" if persona == arm.removeprefix(PROMPTED) else "other" if persona in arms else "bystander"


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    import polars as pl

    columns = {"value": pl.Float64, "persona": pl.String, "role": pl.String}  # may be null in every row
    known = {name: kind for name, kind in columns.items() if rows and name in rows[0]}
    return pl.DataFrame(rows, schema_overrides=known, infer_schema_length=None)


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
