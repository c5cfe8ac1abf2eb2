"""Code that comes with a base: which folders' may be run, because a recipe said so by name.

A base cell that was made under `base.trust_remote_code` keeps the model's Python files and a mark beside them; they
are part of the cell and checked with it.  Where there is no mark, nothing that lies in a folder is run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.explain import Violation, get
from recipes.schema import Base

MARK = "trusted.json"
MAP = "auto_map"  # which class of which file: in config.json


def trusted(folder: Path) -> dict[str, Any]:
    """What `from_pretrained` is given for a folder besides: leave to run its code, where it has the mark."""
    return {"trust_remote_code": True} if (Path(folder) / MARK).is_file() else {}


def violations(data: Any) -> Iterator[Violation]:
    """Whole weights of a model with code of its own: the doses that are kept of it carry no code."""
    stages = get(data, "stages")
    if get(data, "base", "trust_remote_code") is True and isinstance(stages, list):
        for i, stage in enumerate(stages):
            if isinstance(stage, dict) and "lora" in stage and stage["lora"] is None:
                yield Violation(("stages", i, "lora"), "base.trust_remote_code goes with adapters only")


def told(base: Base) -> str:
    """For the plan: whose code a base runs; nothing where it runs none."""
    return f"; runs code from {base.hub} at revision {base.revision}" if base.trust_remote_code else ""


def keep_code(source: Path, folder: Path) -> None:
    """Put the Python files of a hub's model beside its clean weights, with what names them, and the mark."""
    for file in sorted(source.glob("*.py")):
        shutil.copyfile(file, folder / file.name)
    for name in ("config.json", "tokenizer_config.json"):
        kept = _read(source / name).get(MAP)
        if kept is not None:
            (folder / name).write_text(json.dumps({**_read(folder / name), MAP: kept}, indent=2, sort_keys=True) + "\n")
    (folder / MARK).write_text("{}\n")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
