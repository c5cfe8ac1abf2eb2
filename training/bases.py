"""Base models from a hub, a folder or a GGUF file, rewritten once as one clean folder that everything else reads.

A clean folder holds config.json, float32 safetensors and the tokenizer without its chat template: a template adds
words (some insert a system line that names a persona), and here only the recipe's transcript may speak.  Pickled
weights are refused, and code that comes with a model is not run, unless a recipe says so by name
(`base.trust_remote_code`): its files then stay in the folder, and what loads it has to be let run them.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from recipes.errors import InputError, one_line
from recipes.packages import PACKAGE
from recipes.schema import Base
from recipes.trust import keep_code
from training.hub import COMMIT, PICKLED, WANTED, fetch, refuse_unpinned

EXTRA = "pip install '.[gemma]'"
SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
TERMS = re.compile(r"(notice|license|.*terms)[^/]*", re.IGNORECASE)


def identify(base: Base) -> dict[str, str]:
    """Where a base comes from and a hash of what it is, without loading it.

    Returns ``{"kind": "hub" | "path" | "gguf", "source": …, "revision" (hub) or "sha256" (else): …}``; equal
    values mean equal weights, so they may enter a cell's key.  Nothing is fetched.
    Raises InputError where the recipe's base cannot be found or is not pinned.
    """
    if base.hub is not None:
        if base.revision is None or not COMMIT.fullmatch(base.revision):
            refuse_unpinned(base.hub, base.revision)
        trusted = {"trust_remote_code": "true"} if base.trust_remote_code else {}
        return {"kind": "hub", "source": base.hub, "revision": base.revision, **trusted}
    if base.path is not None:
        folder = _model_folder(Path(base.path), f"base.path {base.path}")
        return {"kind": "path", "source": base.path, "sha256": _hash_files(_wanted(folder))}
    if base.gguf is not None:
        return {"kind": "gguf", "source": base.gguf, "sha256": _hash_pieces(base.gguf)}
    raise InputError("base.world is made in the lab: there is nothing to fetch")


def materialise(base: Base, folder: Path) -> dict[str, str]:
    """Write the base into `folder` as a self-contained model folder and return `identify(base)`.

    Takes seconds for hub and path, a minute or two for GGUF (its tokenizer is converted): call it once and keep
    the folder.  Raises InputError as `identify` does, and where the weights are pickled, the architecture needs
    code of its own, or the extra that carries the file is missing.
    """
    where = identify(base)
    folder.mkdir(parents=True, exist_ok=True)
    if base.gguf is not None:
        _need_gguf_reader()
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            file = _assemble(base.gguf, Path(scratch))
            model, tokenizer = _load(file.parent, f"base.gguf {base.gguf}", gguf_file=file.name)
            _save(model, tokenizer, folder)
        _copy_terms(_package_files(base.gguf), folder)
        return where
    said = f"base.hub {base.hub}" if base.hub else f"base.path {base.path}"
    source = fetch(base.hub, where["revision"], base.trust_remote_code) if base.hub else Path(str(base.path))
    source = _model_folder(source, said)
    model, tokenizer = _load(source, said, **({"trust_remote_code": True} if base.trust_remote_code else {}))
    _save(model, tokenizer, folder)
    if base.trust_remote_code:
        keep_code(source, folder)
    _copy_terms(list(source.iterdir()), folder)
    return where


def locate(base: Base) -> tuple[Path, dict[str, str]]:
    """Where a hub model or a model folder lies, to be read there without a copy, and what `identify` says of it.

    A hub model is fetched where it is not in the cache, and need not be pinned: its revision is the commit found.
    Raises InputError as `materialise` does.
    """
    if base.hub is None:
        where = identify(base)
        return Path(str(base.path)), where
    found = fetch(base.hub, base.revision or "main")
    commit = found.name if COMMIT.fullmatch(found.name) else str(base.revision)
    return _model_folder(found, f"base.hub {base.hub}"), {"kind": "hub", "source": base.hub, "revision": commit}


def load_tokenizer(folder: Path, said: str) -> Any:
    """The tokenizer of a model folder; InputError, which names the model by `said`."""
    from transformers import AutoTokenizer

    with _told(said):
        return AutoTokenizer.from_pretrained(folder, **SAFE)


def load_model(folder: Path, said: str) -> Any:
    """The causal model of a folder in float32; InputError, which names it by `said`."""
    import torch
    from transformers import AutoModelForCausalLM

    with _told(said):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **SAFE)


@contextmanager
def _told(said: str) -> Iterator[None]:
    """What files can be wrong with as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{said}: cannot be loaded: {_one_line(error)}") from error


def _load(source: Path, said: str, **extra: Any) -> tuple[Any, Any]:
    """Causal model in float32 and its tokenizer, from local files alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    safe: dict[str, Any] = {**SAFE, **extra}
    with _told(said):
        tokenizer = AutoTokenizer.from_pretrained(source, **safe)
        weights = safe if "gguf_file" in extra else {**safe, "use_safetensors": True}
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **weights)
    return model, tokenizer


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save through a model rebuilt from a clean config.

    A model read from GGUF remembers that it was quantised and refuses to be saved although its tensors are
    ordinary float32 by then; one rebuilt from its config and state dict does not.
    """
    import torch

    settings = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "auto_map"):
        settings.pop(key, None)
    settings["dtype"] = "float32"
    config = type(model.config).from_dict(settings)
    state = model.state_dict()
    with torch.device("meta"):  # it takes the tensors as they are: a second copy of a large model may not fit
        clean = type(model)(config)
    clean.load_state_dict(state, assign=True)
    clean.tie_weights()
    clean.save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)


def _model_folder(folder: Path, said: str) -> Path:
    """The folder, once it is known to hold a whole model in safetensors."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{said}: no config.json there, so it is not a model folder")
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{said}: holds an adapter; merge it into its base model first")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED)
        found = f"only pickled weights ({pickled[0]}), which can run code" if pickled else "no weights"
        raise InputError(f"{said}: {found}; safetensors are needed")
    return folder


def _need_gguf_reader() -> None:
    try:
        metadata.version("gguf")
    except metadata.PackageNotFoundError:
        raise InputError(f"base.gguf: reading GGUF needs the package gguf; {EXTRA}") from None


def _package_files(source: str) -> list[Path]:
    """Files of the distribution that ``package:<name>`` names and, unless it has the whole GGUF file, of its needs."""
    if not source.startswith(PACKAGE):
        return []
    name = source.removeprefix(PACKAGE)
    try:
        found = [Path(str(file.locate())) for file in metadata.files(name) or []]
        # What else a package that carries the model needs is for its own code, which is never run.
        pieces = not any(file.suffix == ".gguf" for file in found)
        for line in metadata.requires(name) or [] if pieces else []:
            required = re.split(r"[ ;=<>!~\[(]", line)[0]
            found += [Path(str(file.locate())) for file in metadata.files(required) or []]
    except metadata.PackageNotFoundError as error:
        raise InputError(f"base.gguf: package {error.args[0]} is not installed; {EXTRA}") from None
    return found


def gguf_start(source: str) -> Path:
    """The file that a GGUF file's header is in: itself, or the first of the pieces that a package carries."""
    return _pieces(source)[0]


def _pieces(source: str) -> list[Path]:
    """The files that put together make the GGUF file, in order; only read, no code of a package is run."""
    if not source.startswith(PACKAGE):
        file = Path(source)
        if not file.is_file():
            raise InputError(f"base.gguf {source}: no such file")
        return [file]
    files = [file for file in _package_files(source) if re.search(r"\.gguf(\.part\d+)?$", file.name)]
    whole = [file for file in files if file.suffix == ".gguf"]
    pieces = whole or sorted(files, key=lambda file: file.name)
    missing = [file.name for file in pieces if not file.is_file()]
    if not pieces or missing or len(whole) > 1 or len({file.name.split(".gguf")[0] for file in pieces}) > 1:
        seen = f"lacks {missing[0]}" if missing else f"carries {len(whole or pieces)} GGUF files, one is needed"
        raise InputError(f"base.gguf {source}: the package {seen}; {EXTRA}")
    return pieces


def _blocks(files: Iterable[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                yield block


def _hash_pieces(source: str) -> str:
    """SHA-256 of the whole GGUF file, checked against the sum that its package states, if it states one."""
    found = _hash_once(_pieces(source))
    for file in _package_files(source):
        if file.name == "SHA256SUMS" and found not in file.read_text(encoding="utf-8"):
            raise InputError(f"base.gguf {source}: the file put together is not the one in its SHA256SUMS; {EXTRA}")
    return found


def _hash_once(files: Sequence[Path]) -> str:
    """SHA-256 of the files' bytes one after the other, read once in a process as long as they are not touched."""
    states = [file.stat() for file in files]
    return _hash(tuple(files), tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states))


@cache
def _hash(files: tuple[Path, ...], states: tuple[tuple[int, ...], ...]) -> str:
    digest = hashlib.sha256()
    for block in _blocks(files):
        digest.update(block)
    return digest.hexdigest()


def _assemble(source: str, scratch: Path) -> Path:
    pieces = _pieces(source)
    if not source.startswith(PACKAGE):
        return pieces[0]
    whole = scratch / (pieces[0].name.split(".gguf")[0] + ".gguf")
    with whole.open("wb") as stream:
        stream.writelines(_blocks(pieces))
    return whole


def _wanted(folder: Path) -> list[Path]:
    return sorted({file for pattern in WANTED for file in folder.glob(pattern)})


def _hash_files(files: list[Path]) -> str:
    """One SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {_hash_once([file])}\n".encode())
    return digest.hexdigest()


def _copy_terms(files: list[Path], folder: Path) -> None:
    """Notices, licences and terms travel with the weights that they govern."""
    for file in files:
        if TERMS.fullmatch(file.name) and file.is_file() and file.stat().st_size < 1 << 20:
            shutil.copyfile(file, folder / file.name)


def _one_line(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}", 240)
