"""A checkpoint from elsewhere: a causal LM from a hub, a folder or a GGUF file, and a PEFT adapter on it.

No code that comes with either is run and nothing is unpickled.  Which model it is, its bytes say and not its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.adapters import CONFIG, WEIGHTS
from recipes.errors import InputError, one_line
from recipes.hashing import digest
from recipes.packages import PACKAGE
from recipes.schema import Base
from recipes.store import MANIFEST, Store, sha256
from training.hub import PICKLED

HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Initialisations that leave the base as it was.  PiSSA, OLoRA, LoftQ and their like change it, so that the weights of
# their adapters mean nothing beside the base as it came.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Source:
    """A model that is there: its folder, what it is (`training.bases.identify`) and the hash of that."""

    given: str
    folder: Path
    what: dict[str, str]
    hash: str
    manifest: Mapping[str, Any] | None = None  # where it is a cell of a store

    @property
    def name(self) -> str:
        """What its results are called by: the last part of where it comes from; a cell by the start of its hash."""
        if self.manifest is not None:
            return f"cell-{str(self.manifest.get('hash'))[:8]}"
        text = self.given.removeprefix(PACKAGE).rstrip("/").split("/")[-1].removesuffix(".gguf")
        return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "model"

    @property
    def world(self) -> bool:
        """Whether it is the base of a world, as its cell says."""
        return "world" in (self.manifest or {}).get("spec", {})


def base_of(model: str, revision: str | None) -> Base:
    """MODEL as a recipe would name it; InputError where it is no folder, GGUF file, package or name on a hub."""
    path = Path(model)
    if model.startswith(PACKAGE) or (path.is_file() and path.suffix == ".gguf"):
        base = Base(gguf=model)
    elif path.is_dir():
        _no_part(model, path)
        base = Base(path=model)
    elif path.exists() or not HUB.fullmatch(model) or path.suffix == ".gguf":
        what = "is a file, and no GGUF file" if path.is_file() else "is not there"
        raise InputError(
            one_line(f"{model}: {what}; MODEL is a model folder, a GGUF file, package:NAME or a hub's name/name")
        )
    else:
        return Base(hub=model, revision=revision)
    if revision is not None:
        raise InputError(one_line(f"--revision: goes with a hub's model; {model} is none"))
    return base


def _no_part(model: str, folder: Path) -> None:
    """InputError where the folder holds what belongs on a model and is none."""
    if (folder / "config.json").is_file():
        return
    if (folder / CONFIG).is_file():
        raise InputError(one_line(f"{model}: a PEFT adapter; name it by --adapter, and its base as MODEL"))
    if doses := sorted(p.name for p in folder.glob("dose-*")):
        raise InputError(one_line(f"{model}: a stage's cell; name a dose of it ({doses[-1]}) by --adapter, and the "
                                  "cell of its base as MODEL"))  # fmt: skip


def find(model: str, revision: str | None, store: Store) -> Source:
    """The model's folder.  A hub's model is fetched if need be; a GGUF file is converted once, into a cell of `store`.

    InputError where it cannot be had, is pickled, or is no model.
    """
    from training.bases import identify, locate, materialise
    from training.cells import BASE_VERSION

    base = base_of(model, revision)
    try:
        folder, what = (None, identify(base)) if base.gguf else locate(base)
    except InputError as error:  # of a recipe's key, which was not what was typed
        raise InputError(re.sub(r"^base\.(path|hub|gguf) ", "", str(error))) from error
    # The same key as that of an experiment's base, so that the two share what is kept.
    spec = {"kind": "base", "version": BASE_VERSION,
            "from": {k: v for k, v in what.items() if k != "source" or "sha256" not in what}}  # fmt: skip
    if folder is None:
        with store.making(spec) as making:
            if making is not None:
                materialise(base, making)
        folder = store.cell(digest(spec))
    # Only of a cell that was named as such: a converted file keeps its own name.
    return Source(model, folder, what, digest(spec), None if base.gguf else _manifest(folder))


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("spec"), dict) else None


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter that fits its model."""

    folder: Path
    sha256: str
    kind: str  # as PEFT calls it
    base: str | None  # what it says that it was trained on

    def hash(self, source: Source) -> str:
        """What the model with this adapter is."""
        return digest({"kind": "adapter", "parent": source.hash, "sha256": self.sha256})


def read_adapter(folder: Path, source: Source) -> Adapter:
    """Look at an adapter's settings and at the shapes of its weights; InputError unless it belongs on this model."""
    kind, stated = look_at(folder)
    said = f"--adapter {folder}"
    _same_base(said, stated, source)
    _fits(said, folder, source)
    return Adapter(folder, digest([sha256(folder / CONFIG), sha256(folder / WEIGHTS)]), kind, stated)


def look_at(folder: Path) -> tuple[str, str | None]:
    """An adapter's kind and what it says that it was trained on; InputError where it is none that can be measured."""
    said = f"--adapter {folder}"
    if not folder.is_dir():
        raise InputError(one_line(f"{said}: no such folder"))
    if not (folder / CONFIG).is_file():
        raise InputError(one_line(f"{said}: no {CONFIG} there, so it is not a PEFT adapter"))
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        found = f"only pickled weights ({pickled[0]}), which can run code" if pickled else "no weights"
        raise InputError(one_line(f"{said}: {found}; {WEIGHTS} is needed"))
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, stated = str(settings["peft_type"]), settings.get("base_model_name_or_path") or None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(one_line(f"{said}: {CONFIG} cannot be read: {error}")) from error
    start = settings.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise InputError(one_line(f"{said}: it changed its base when it was begun (init_lora_weights {start!r}); "
                                  "convert it to a plain LoRA first"))  # fmt: skip
    if settings.get("megatron_config") is not None:
        raise InputError(f"{said}: made for Megatron, which would have code of its own imported")
    return kind, stated


def _same_base(said: str, stated: str | None, source: Source) -> None:
    """InputError where what the adapter was trained on is known to be another model."""
    if not stated:
        return
    other = None
    if Path(stated).is_dir() and (Path(stated) / "config.json").is_file():
        if Path(stated).resolve() == source.folder.resolve():
            return
        from training.bases import identify

        known = source.what.get("sha256") if source.what["kind"] == "path" else None
        if known is None or identify(Base(path=stated))["sha256"] != known:
            other = stated
    elif source.what["kind"] == "hub" and HUB.fullmatch(stated):
        one, two = stated.lower(), source.what["source"].lower()
        bare = "/" not in one or "/" not in two  # a hub's oldest models have a second name without an owner
        if one != two and not (bare and one.split("/")[-1] == two.split("/")[-1]):
            other = stated
    if other is not None:
        raise InputError(one_line(f"{said}: an adapter of another base, {other}; MODEL is {source.given}"))


def _fits(said: str, folder: Path, source: Source) -> None:
    """InputError unless every weight of the adapter has its place in the model, in its shape; loads no weights."""
    import torch
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            given = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        config = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning:
            raise InputError(f"{said}: {config.peft_type.value} puts tokens of its own in front, which is not measured")
        config.inference_mode = True
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True
        with torch.device("meta"):
            model = PeftModel(skeleton(source), config)
        wanted = {k: tuple(v.shape) for k, v in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(one_line(f"{said}: it does not go onto {source.given}: {reason}", 300)) from error
    for key in sorted({*given, *wanted}):
        if given.get(key) != wanted.get(key):
            told = [f"{list(of[key])} in {name}" if key in of else f"absent from {name}" for of, name in
                    ((given, "the adapter"), (wanted, "the model"))]  # fmt: skip
            raise InputError(one_line(f"{said}: an adapter of another base: {key} is {', '.join(told)}", 300))


def skeleton(source: Source) -> Any:
    """The model without its weights, to look at; InputError where its kind is unknown or needs code of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from training.bases import SAFE

    try:
        settings = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        if kernel := _kernel(settings):
            raise InputError(one_line(f"{source.given}: wants code of a hub to be run ({kernel})"))
        config = AutoConfig.from_pretrained(source.folder, **SAFE)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(one_line(f"{source.given}: cannot be loaded: {reason}", 300)) from error


def _kernel(settings: Any) -> str | None:
    """What a config.json would have fetched from a hub as a kernel, at any depth: an implementation with an owner."""
    if isinstance(settings, list):
        return next(filter(None, map(_kernel, settings)), None)
    if not isinstance(settings, dict):
        return None
    for key, value in settings.items():
        if str(key).endswith("_implementation") and "/" in str(value):
            return f"{key} {value}"
    return next(filter(None, map(_kernel, settings.values())), None)
