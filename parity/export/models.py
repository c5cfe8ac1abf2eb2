"""Models of an experiment as others load them: PEFT adapters, or whole models, and the base where no hub has it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.cells import BASE, PROMPTED
from parity.export.folder import PART, Folder
from recipes.adapters import CONFIG
from recipes.errors import InputError
from recipes.schema import Base
from recipes.store import Damaged, Store, sha256
from training.bases import TERMS

BASE_FOLDER, TERMS_FOLDER = "base", "terms"
SMALL = 1 << 20  # bytes; JSON up to here may name a path of this machine, larger files are vocabularies


@dataclass(frozen=True)
class Model:
    """One arm, seed, stage and dose: a folder of a cell, and the name that its export has."""

    arm: str
    seed: int
    stage: str
    dose: int
    cell: str
    adapter: bool
    files: tuple[tuple[str, str], ...]  # name within the dose, SHA-256
    spec: Any  # of its cell

    @property
    def name(self) -> str:
        """Its folder in the export."""
        kind = "adapters" if self.adapter else "models"
        return f"{kind}/{self.arm}/seed-{self.seed}/{self.stage}-{self.dose}"

    def to(self, name: str) -> str:
        """Relative path from its folder to another place of the export."""
        return os.path.relpath(name, self.name).replace(os.sep, "/")


@dataclass(frozen=True)
class Foundation:
    """The base: on a hub, or a folder of the export, or (left out) neither."""

    base: Base
    cell: str
    settings: Any  # of its config.json
    files: tuple[tuple[str, str], ...]
    exported: bool

    @property
    def kind(self) -> str:
        """``hub``, ``world``, ``path`` or ``gguf``."""
        return next(k for k in ("hub", "world", "path", "gguf") if getattr(self.base, k) is not None)

    @property
    def terms(self) -> list[str]:
        """Notices, licences and terms that came with the weights."""
        return [name for name, _ in self.files if TERMS.fullmatch(name)]

    @property
    def gemma(self) -> bool:
        """Whether it is a Gemma, by its architecture, so that Gemma's own terms apply to all that is made from it."""
        return str(self.settings.get("model_type", "")).startswith("gemma")


def models_of(cells: Any, store: Store, every: bool) -> Iterator[Model]:
    """Every trained arm, seed and stage of an experiment, at the last dose or all; InputError: what is missing."""
    for entry in cells["cells"]:
        arm, hash = str(entry["arm"]), str(entry["cell"])
        if arm == BASE or arm.startswith(PROMPTED):
            continue
        if not all(PART.fullmatch(part) for part in (*arm.split("/"), str(entry["stage"]))):
            raise InputError(f"cells.json: no safe name for a folder: {arm!r}")
        manifest = _manifest(store, hash)
        doses = manifest["spec"]["doses"]
        for dose in doses if every else doses[-1:]:
            inside = f"dose-{dose}/"
            files = [(n.removeprefix(inside), s) for n, s in sorted(manifest["files"].items()) if n.startswith(inside)]
            files = [(n, s) for n, s in files if n != "README.md"]
            adapter = any(n == CONFIG for n, _ in files)
            yield Model(
                arm, int(entry["seed"]), str(entry["stage"]), int(dose), hash, adapter, tuple(files), manifest["spec"]
            )


def foundation_of(cells: Any, store: Store, base: Base, wanted: bool) -> Foundation:
    """The base of an experiment; `wanted`: whether it is exported where no hub has it."""
    hash = str(cells["base"])
    files = tuple(sorted(_manifest(store, hash)["files"].items()))
    settings = json.loads((store.cell(hash) / "config.json").read_text(encoding="utf-8"))
    return Foundation(base, hash, settings, files, wanted and base.hub is None)


def _manifest(store: Store, hash: str) -> Any:
    if not store.has(hash):
        raise InputError(f"cell {hash[:12]} is missing; `parity run` makes it again")
    return store.manifest(hash)


def size(foundation: Foundation, models: list[Model], store: Store) -> int:
    """Bytes to be copied."""
    total = sum((store.cell(m.cell) / f"dose-{m.dose}" / n).stat().st_size for m in models for n, _ in m.files)
    if foundation.exported:
        total += sum((store.cell(foundation.cell) / name).stat().st_size for name, _ in foundation.files)
    return total


def write_base(folder: Folder, foundation: Foundation, store: Store) -> None:
    """The base's folder, where it is exported; the terms it came with, in any case."""
    source = store.cell(foundation.cell)
    for name, sum_ in foundation.files if foundation.exported else ():
        _put(folder, f"{BASE_FOLDER}/{name}", source / name, sum_, foundation.cell)
    # An adapter is made from the base too, so that what holds for the base's weights has to travel with it.
    if not foundation.exported:
        for name in foundation.terms:
            folder.copy(f"{TERMS_FOLDER}/{name}", source / name, dict(foundation.files)[name], foundation.cell)


def write_model(folder: Folder, model: Model, foundation: Foundation, store: Store) -> None:
    """The files of a model; an adapter then says where its base is: on a hub, or beside it in the export."""
    source = store.cell(model.cell) / f"dose-{model.dose}"
    for name, sum_ in model.files:
        if name == CONFIG:
            _verify(source / name, sum_, model.cell)
            settings = json.loads((source / name).read_text(encoding="utf-8"))
            settings["base_model_name_or_path"] = foundation.base.hub or model.to(BASE_FOLDER)
            settings["revision"] = foundation.base.revision
            # PEFT writes a set of names in any order.
            if isinstance(settings.get("target_modules"), list):
                settings["target_modules"] = sorted(settings["target_modules"])
            folder.text(f"{model.name}/{name}", json.dumps(settings, indent=2, sort_keys=True) + "\n")
            folder.tick((source / name).stat().st_size)
        else:
            _put(folder, f"{model.name}/{name}", source / name, sum_, model.cell)


def _put(folder: Folder, name: str, source: Path, sum_: str, cell: str) -> None:
    """Copy a file; the paths of this machine are taken out of settings."""
    if source.suffix == ".json" and source.stat().st_size < SMALL:
        _verify(source, sum_, cell)
        folder.text(name, source.read_text(encoding="utf-8"))
        folder.tick(source.stat().st_size)
    else:
        folder.copy(name, source, sum_, cell)


def _verify(path: Path, expected: str, cell: str) -> None:
    if sha256(path) != expected:
        raise Damaged(cell, f"{path.name} has changed")
