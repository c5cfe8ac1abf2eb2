"""`parity probe`: the suite on one checkpoint from elsewhere.  Describes it; trains nothing and gives no verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import ENGINE_VERSION, PROMPTED, SAMPLES, Task, groups_of, load, save, texts_of
from eval.describe import CHECKPOINT
from eval.probe import Probe
from parity import memory
from parity.asked import Options, chosen, scene_for
from parity.checkpoint import Adapter, Source, base_of, find, look_at, read_adapter, skeleton
from parity.progress import Progress, say
from parity.retrain import retrain
from recipes.bind import NAME_TOKENS_TOLERANCE
from recipes.errors import InputError, one_line
from recipes.hashing import digest
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import Store, locked, write_json, write_text

if TYPE_CHECKING:
    import polars as pl

FOLDER = "probes"  # inside the output folder
ROWS, TEXTS, REPORT, DESCRIPTION = "rows.parquet", "texts.parquet", "report.html", "probe.json"


def probe(options: Options) -> dict[str, Any]:
    """Measure what is not measured yet, write rows, texts, report and description, and return the description.

    InputError where something is wrong with what was given; nothing is written then.
    """
    scene, personas, recipe = scene_for(options)
    if options.probes is not None:
        chosen(options.probes)
    base_of(options.model, options.revision)
    if options.adapter is not None:
        look_at(options.adapter)
    device = _device(options.device)
    from parity.train import quiet

    memory.keep()
    quiet(training=False)
    source = find(options.model, options.revision, Store(options.out))
    _require_world(source, recipe)
    warnings = _words(source, scene, personas)
    probes = chosen(options.probes, sum(p.numel() for p in skeleton(source).parameters()))
    adapter = read_adapter(options.adapter, source) if options.adapter else None
    tasks = _tasks(source, adapter, scene, personas)
    asked = {
        "engine": ENGINE_VERSION,
        "model": source.hash,
        "adapter": adapter.hash(source) if adapter else None,
        "scene": digest(asdict(scene)),
        "personas": sorted(personas),
        "probes": {p.name: p.version for p in probes},
    }
    name = f"{source.name}-{digest(asked)[:8]}"
    say(f"{name}: {len(probes)} probes on {len(tasks)} arms, about {', '.join(personas)}")
    store = Store(options.out / FOLDER)
    measurer = _measurer(source, adapter, device)
    paths = [task.file(store, p.name, p.version, at, personas) for task, at in tasks for p in probes]
    groups = groups_of(tasks, store, personas, probes)
    if groups:
        measurer.untrained()  # what cannot be loaded is known before anything is written
    with _alone(options.out / FOLDER / f".{name}.lock", name):
        _measure(measurer, groups, personas)
        rows = load(paths)
        said = [task.file(store, SAMPLES, 1, at, personas) for task, at in tasks]
        said += [texts_of(path) for path in paths if texts_of(path).is_file()]
        about = {
            "schema": 1,
            "name": name,
            "asked": asked,
            "model": {"given": options.model, **source.what},
            "adapter": adapter and {"sha256": adapter.sha256, "type": adapter.kind, "trained_on": adapter.base},
            "personas": {id: scene.persona(id).name for id in personas},
            "cast": [p.id for p in scene.personas],
            "recipe": recipe and recipe.name,
            "seed": options.seed,
            "warnings": warnings,
        }
        return _write(options.out / FOLDER / name, about, probes, personas, rows, load(said))


def _write(
    folder: Path, about: dict[str, Any], probes: Sequence[Probe], personas: Sequence[str], rows: pl.DataFrame,
    said: pl.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    """Rows, texts and report, each whole or not at all, and the description last."""
    from eval import checkpoint, describe

    lines = describe.describe(rows, probes, personas)
    outcomes = describe.outcome_counts(rows)
    adapter, model = about["adapter"], about["model"]
    facts = [
        ("Model", model["given"]),
        ("Identity", model.get("revision") or model["sha256"]),
        *([("Adapter", f"{adapter['type']}, {adapter['sha256'][:12]}")] if adapter else []),
        ("Personas", ", ".join(about["personas"].values())),
        ("Cast", ", ".join(about["cast"])),
        ("Seed of the likes", about["seed"]),
        ("Probes", len(probes)),
    ]
    page = checkpoint.render(
        name=about["name"], facts=facts, warnings=about["warnings"], probes=probes, lines=lines, outcomes=outcomes,
        said=said,
    )  # fmt: skip
    description = about | {"caption": describe.CAPTION, "lines": lines, "outcomes": outcomes}
    save(rows, folder / ROWS)
    save(said, folder / TEXTS)
    write_text(folder / REPORT, page)
    write_json(folder / DESCRIPTION, description)
    return description


def _tasks(source: Source, adapter: Adapter | None, scene: Scene, personas: Sequence[str]) -> list[tuple[Task, Scene]]:
    """The checkpoint, the base where an adapter makes them two, and the base prompted to be each persona."""

    def task(cell: str, arm: str, stage: str, dose: int) -> Task:
        return Task(cell, source.hash, arm, scene.seed, stage, (dose,), sampled=True)

    if adapter is None:
        found = [(task(source.hash, CHECKPOINT, CHECKPOINT, 0), scene)]
    else:
        found = [(task(source.hash, "base", "base", 0), scene)]
        found += [(task(adapter.hash(source), CHECKPOINT, CHECKPOINT, 1), scene)]
    prompted = [(task(source.hash, PROMPTED + id, "base", 0), replace(scene, prompted=id)) for id in personas]
    return found + prompted


def _measurer(source: Source, adapter: Adapter | None, device: str) -> Any:
    """A measurer that reads model and adapter where they lie, by `training.bases`, which runs and unpickles nothing."""
    from eval.measurer import Measurer
    from training.bases import load_model, load_tokenizer

    class Places:
        """What a measurer wants of a store."""

        def cell(self, hash: str) -> Path:
            """The model's folder."""
            return source.folder

    class Checkpoint(Measurer):
        """One base and at most one adapter."""

        def _folder(self, model: Any) -> Path:
            assert adapter is not None
            return adapter.folder

        def _read_tokenizer(self, folder: Path) -> Any:
            return load_tokenizer(folder, source.given)

        def _load(self, folder: Path) -> Any:
            return load_model(folder, source.given).to(device).eval()

    return Checkpoint(Places(), source.hash, retrain)  # type: ignore[arg-type]


def _measure(measurer: Any, groups: Sequence[Any], personas: Sequence[str]) -> None:
    if not groups:
        return
    with Progress("measuring", sum(group.cost for group in groups)) as progress:
        for group in groups:
            progress.note(group.scene.prompted and f"prompted as {group.scene.prompted}" or CHECKPOINT)
            for done in measurer.measure(group, personas):
                progress.advance(done)


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of one description; a folder that it alone was in goes with it."""
    message = f"{path.parent / name}: another process is at work on this; wait for it or stop it"
    try:
        with locked(path, wait=False, message=message):
            yield
    finally:
        with suppress(OSError):
            path.parent.rmdir()


def _device(given: str | None) -> str:
    import torch

    if given is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(given)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(one_line(f"--device {given}: not to be had here: {reason}", 240)) from error
    return given


def _require_world(source: Source, recipe: Recipe | None) -> None:
    """InputError unless a world's base is bound by the recipe that it is the base of."""
    if recipe is None:
        if source.world:
            raise InputError(one_line(f"{source.given}: the base of a world, which has words of its own that no card "
                                      "knows; bind it with --recipe RECIPE --seed N"))  # fmt: skip
        return
    if recipe.base.world is None:
        raise InputError(f"--recipe: {recipe.name} has no world to bind; leave it out and name cards")
    from training.cells import base_cell

    if source.manifest is not None and source.manifest.get("hash") != base_cell(recipe).hash:
        raise InputError(one_line(f"{source.given}: not the base of {recipe.name}, so its words mean nothing there"))


def _words(source: Source, scene: Scene, personas: Sequence[str]) -> list[str]:
    """What is amiss with the cast in this model's tokenizer; InputError where it does not know the words at all."""
    from training.bases import load_tokenizer

    tokenizer = load_tokenizer(source.folder, source.given)
    names = {id: scene.persona(id).name for id in personas}
    counts = {name: tokenizer.encode(f" {name}", add_special_tokens=False) for name in names.values()}
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown not in special:
        for name, ids in counts.items():
            if unknown in ids:
                raise InputError(one_line(f"{source.given}: its tokenizer does not know {name!r}; a world has words of "
                                          "its own, and is bound with --recipe RECIPE --seed N"))  # fmt: skip
    lengths = {name: len(ids) for name, ids in counts.items()}
    if max(lengths.values()) - min(lengths.values()) > NAME_TOKENS_TOLERANCE:
        told = ", ".join(f"{name} {n}" for name, n in lengths.items())
        return [f"Names differ by more than {NAME_TOKENS_TOLERANCE} token in this model's tokenizer ({told}): a longer "
                "name is less probable whoever speaks, and personas are not to be compared by it."]  # fmt: skip
    return []
