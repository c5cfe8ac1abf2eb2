"""The W&B mirror of what was measured and judged: strength by dose of every run, and the experiment's verdict.

A function of the experiment's folder.  While it is blind, runs carry the labels of the verdict, in the labels' order
and under ids that the runs of training do not share; samples, rows and adapters, which would name everyone, stay out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import blind
from eval.experiment import CELLS, REPORT, VERDICT
from eval.lock import LOCK, read_lock
from eval.probe import Probe
from eval.wording import visible
from parity.plan import Plan
from recipes.hashing import digest, recipe_hash
from recipes.store import MEASUREMENTS, Store
from training import tracking
from training.cells import Cell

if TYPE_CHECKING:
    import polars as pl

DOSE, STRENGTH = "dose", "strength"
TABLE, SAMPLES = "verdict_table", "samples"
FIRST = ("pair", "probe", "stage", "dose", "match", "contrast", "estimate", "low", "high", "unit", "margin", "p",
         "p_adjusted", "n_seeds", "n_items", "primary", "verdict")  # fmt: skip
SAMPLED = ("arm", "seed", "stage", "dose", "probe", "item", "persona", "slot", "prompt", "text", "finish", "outcome")
MOST_ROWS = 10_000  # what W&B shows of a table
MOST_SAMPLES = 1_000
UPLOAD_SECONDS = 600  # that the verdict's run may take to send adapters and rows
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def mirror(plan: Plan, probes: Sequence[Probe], verdict: Mapping[str, Any]) -> None:
    """Show strength by dose and the verdict in W&B; whatever goes wrong there is a line on stderr."""
    if tracking.mode() != "disabled":
        tracking.guarded("mirroring the verdict", lambda: _mirror(plan, probes, verdict))


def _mirror(plan: Plan, probes: Sequence[Probe], verdict: Mapping[str, Any]) -> None:
    from eval.experiment import read_rows, strength_curves

    hidden = blind.blinding(plan.folder, read_lock(plan.folder), plan.scenes)
    gate = [probe.name for probe in probes if probe.gate]
    curves: dict[str, list[tuple[int, float]]] = {}
    for rows in read_rows(plan.folder, plan.store, gate) if gate else ():
        curves |= strength_curves(rows, probes)
    told = [(hidden.label(str(cell.arm)) if hidden else str(cell.arm), cell) for cell in plan.cells]
    if hidden:  # the order of the recipe's arms would tell who is who
        told.sort(key=lambda one: (len(one[0]), one[0], one[1].seed or 0, one[1].stage or 0))
    for label, cell in told if gate else ():
        log_strength(plan, label, cell, curves.get(cell.hash, []))
    log_verdict(plan, verdict)


def eval_id(plan: Plan, cell: Cell) -> str:
    """Id of a cell's `eval` run; in a blind experiment nothing that the id of its training shows."""
    return f"{(digest([cell.hash, 'eval']) if plan.recipe.judge.blind else cell.hash)[:24]}-eval"


def verdict_id(recipe_hash: str) -> str:
    """Id of an experiment's `verdict` run."""
    return f"{recipe_hash[:24]}-verdict"


def log_strength(plan: Plan, arm: str, cell: Cell, curve: Sequence[tuple[int, float]]) -> None:
    """The `eval` run of one stage of a run: strength (logits) by dose (nominal)."""
    kind = cell.spec["kind"]
    run = tracking.start(
        plan.recipe,
        id=eval_id(plan, cell),
        name=f"{arm} seed {cell.seed} {kind} eval",
        job_type="eval",
        folder=plan.store.root,
        arm=arm,
        config={"arm": arm, "seed": cell.seed, "stage": kind},
    )
    if run is None:
        return

    def define() -> None:
        run.define_metric(DOSE)
        run.define_metric(STRENGTH, step_metric=DOSE)

    tracking.guarded("logging", define)
    for dose, strength in curve:
        tracking.guarded("logging", partial(run.log, {DOSE: dose, STRENGTH: strength}, step=dose))
    tracking.finish(run)


def log_verdict(plan: Plan, verdict: Mapping[str, Any]) -> None:
    """The experiment's `verdict` run: table, forest plots, samples, and its files as artifacts."""
    config = {key: verdict.get(key) for key in ("alpha", "match", "claim", "commit", "arms", "seeds")}
    run = tracking.start(
        plan.recipe,
        id=verdict_id(recipe_hash(plan.recipe)),
        name="verdict",
        job_type="verdict",
        folder=plan.folder,
        config=config,
        finish_seconds=UPLOAD_SECONDS,
    )
    if run is None:
        return
    shut = verdict.get("blind") == blind.SHUT
    for what, part in (("table", _table), ("forest plots", _forests), ("summary", _summary)):
        tracking.guarded(f"logging the verdict's {what}", partial(part, run, verdict))
    if not shut:
        tracking.guarded("logging samples", partial(_samples, run, plan, verdict))
    tracking.guarded("logging artifacts", partial(_artifacts, run, plan, verdict, shut))
    tracking.finish(run)


def _summary(run: Any, verdict: Mapping[str, Any]) -> None:
    run.summary["verdict"] = verdict["verdict"]
    run.summary["verdict_rows"] = len(verdict["rows"])


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and data of the verdict's rows: numbers as they are, None where there is none, the rest as text.

    Where there are more than W&B shows, primary rows come first.
    """
    keys = {key for row in rows for key in row}
    columns = [key for key in FIRST if key in keys] + sorted(keys - set(FIRST))
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: not row.get("primary"))[:MOST_ROWS]
    return columns, [[_plain(row.get(key)) for key in columns] for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value):
        return " : ".join(value)
    return json.dumps(value, sort_keys=True) if isinstance(value, (list, tuple, Mapping)) else value


def _table(run: Any, verdict: Mapping[str, Any]) -> None:
    import wandb

    columns, data = table(verdict["rows"])
    run.log({TABLE: wandb.Table(columns=[*columns], data=data, allow_mixed_types=True)})


def _forests(run: Any, verdict: Mapping[str, Any]) -> None:
    import wandb
    from PIL import Image

    from parity.forest import forests

    for key, title, picture in forests(verdict):
        run.log({key: wandb.Image(Image.open(BytesIO(picture)), caption=title)})


def sampled(samples: pl.DataFrame, arms: Sequence[str]) -> list[list[Any]]:
    """Rows of the table of samples (`SAMPLED`): what was said in the slot first, then what probes had written."""
    from eval import overview, texts
    from eval.cells import SAMPLES as PLAIN

    rows = texts.told(overview.sampled(samples, arms) if len(arms) > overview.MOST_ARMS else samples)
    order = ("probe", "item", "persona", "slot", "arm", "stage", "dose", "seed", "prompt", "text")
    rows.sort(key=lambda row: (row["probe"] != PLAIN, *(row[key] for key in order)))
    return [
        [visible(row[key]) if isinstance(row[key], str) else row[key] for key in SAMPLED] for row in rows[:MOST_SAMPLES]
    ]


def _samples(run: Any, plan: Plan, verdict: Mapping[str, Any]) -> None:
    import wandb

    from eval.experiment import read_samples

    data = sampled(read_samples(plan.folder, plan.store), verdict["arms"])
    if data:
        run.log({SAMPLES: wandb.Table(columns=list(SAMPLED), data=data, allow_mixed_types=True)})


def _artifacts(run: Any, plan: Plan, verdict: Mapping[str, Any], shut: bool) -> None:
    """Verdict and report always; the last doses' adapters and the rows as the recipe asks, never while blind."""
    name, word = tracking.group_name(plan.recipe), str(verdict["verdict"])
    files = (VERDICT, REPORT) if shut else (VERDICT, REPORT, CELLS, LOCK)
    _send(run, name, "experiment", word, {file: plan.folder / file for file in files}, "mutable")
    asked = plan.recipe.tracking.artifacts
    if shut or asked == "never" or (asked == "online" and tracking.mode() != "online"):
        return
    # Cells never change, so that their files need no copy.
    _send(run, f"{name}-rows", "rows", word, rows_of(plan.folder, plan.store), "immutable")
    _send(run, f"{name}-adapters", "model", word, adapters_of(plan), "immutable")


def _send(run: Any, name: str, kind: str, word: str, files: Mapping[str, Path], policy: str) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=kind)
    for at, path in files.items():
        if path.is_file():
            artifact.add_file(str(path), name=at, policy=policy)  # type: ignore[arg-type]
    run.log_artifact(artifact, aliases=["latest", word])


def rows_of(folder: Path, store: Store) -> dict[str, Path]:
    """The Parquet files that cells.json names, by their place below the store."""
    cells = json.loads((folder / CELLS).read_text(encoding="utf-8"))["cells"]
    names = {(e["cell"], n) for e in cells for n in (*e["measurements"].values(), e.get("samples")) if n}
    paths = [store.cell(cell) / MEASUREMENTS / name for cell, name in sorted(names)]
    return {str(path.relative_to(store.root)): path for path in paths}


def adapters_of(plan: Plan) -> dict[str, Path]:
    """The adapters of every stage's last dose, by their place below the store; a stage of full weights has none."""
    alive = [cell for cell in plan.cells if plan.store.alive(cell.hash)]
    folders = [plan.store.cell(cell.hash) / f"dose-{cell.spec['doses'][-1]}" for cell in alive]
    paths = [folder / name for folder in folders for name in ADAPTER]
    return {str(path.relative_to(plan.store.root)): path for path in paths if path.is_file()}
