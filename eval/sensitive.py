"""Which probes have been shown to see an asymmetry that was planted on purpose, and in which kind of base.

`sensitivity.json` is a list.  An entry is about worlds of one size, ``{"world": {characters, facts, likes, requests,
layers, width}, "probes": {name: {"detected": bool, "version", "experiment", "stage", …}}}``, or about one real base,
``{"base": hub name, folder or GGUF source, "probes": …}``.  It speaks for exactly that size or base and for no other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eval.probes import discover
from recipes.errors import InputError
from recipes.schema import Base, Recipe, World
from recipes.store import write_text

FILE = Path(__file__).with_name("sensitivity.json")
KEPT = ("contrast", "estimate", "match", "n_seeds", "p_adjusted", "primary", "stage")  # of the row that shows it
SIZE = ("characters", "facts", "likes", "requests", "layers", "width")  # of a world


@dataclass(frozen=True)
class Shown:
    """What one entry shows: of which world or base, and per probe what was found there."""

    world: Mapping[str, int] | None
    base: str | None
    probes: Mapping[str, Mapping[str, Any]]

    @property
    def where(self) -> str:
        """The size or base in words, e.g. ``world of 16 characters, 24 facts, … 3 x 96``."""
        if self.world is None:
            return str(self.base)
        told = ", ".join(f"{self.world[key]} {key}" for key in SIZE[:4])
        return f"world of {told}, {self.world['layers']} x {self.world['width']}"

    def speaks_for(self, base: Base) -> bool:
        """Whether this is that base, or a world of exactly its size."""
        if base.world is not None:
            return self.world is not None and dict(self.world) == size_of(base.world)
        return self.base is not None and self.base in (base.hub, base.path, base.gguf)


def size_of(world: World) -> dict[str, int]:
    """What a planted control's result holds for: the sizes of a world, not its seed or assignment."""
    return {key: getattr(world, key) for key in SIZE}


def read(file: Path = FILE) -> tuple[Shown, ...]:
    """All entries of the file, in its order; ValueError where one is not as this module's head says."""
    return _read(file, file.stat().st_mtime_ns) if file.is_file() else ()


@cache
def _read(file: Path, _changed: int) -> tuple[Shown, ...]:
    found: list[Shown] = []
    for entry in json.loads(file.read_text(encoding="utf-8")):
        world, base = entry.get("world"), entry.get("base")
        if (world is None) == (base is None) or (world is not None and set(world) != set(SIZE)):
            raise ValueError(f"{file.name}: an entry is about a world of {', '.join(SIZE)}, or about a base")
        if any(one.world == world and one.base == base for one in found):
            raise ValueError(f"{file.name}: {found[-1].where} has two entries")
        found.append(Shown(world, base, entry["probes"]))
    return tuple(found)


def sensitivity(recipe: Recipe, entries: Sequence[Shown] | None = None) -> dict[str, bool | None]:
    """Which probes have been shown to see their planted control on this recipe's base; what is unknown is absent."""
    told = read() if entries is None else entries
    known = discover()
    return {
        name: entry["detected"]
        for one in told
        if one.speaks_for(recipe.base)
        for name, entry in one.probes.items()
        if name not in known or entry.get("version", known[name].version) == known[name].version
    }


def shown_by(verdict: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an experiment with a plant shows of each probe that must detect this plant: the headline's Δ or Λ with the
    least adjusted p, at the recipe's match; at equal dose where it is a dose that is planted, which equal strength is
    to remove, and for the gate, which is strength itself.

    InputError where the experiment has no plant.
    """
    kind = next(iter(verdict.get("plant") or {}), None)
    if kind is None:
        raise InputError(f"{verdict['experiment']}: nothing is planted there")
    found: dict[str, dict[str, Any]] = {}
    for name, probe in discover().items():
        match = "dose" if probe.gate or kind == "dose" else verdict["match"]
        of_probe = [row for row in verdict["rows"] if (row["probe"], row["match"]) == (name, match)]
        rows = [row for row in of_probe if row["contrast"] != "T" and row["p_adjusted"] is not None]
        if probe.plant != kind or not rows:
            continue
        best = min(rows, key=lambda row: float(row["p_adjusted"]))
        kept = {key: best[key] for key in KEPT}
        told = {"detected": best["p_adjusted"] < verdict["alpha"], "version": best["version"]}
        found[name] = {**kept, **told, "experiment": verdict["experiment"].rsplit("-", 1)[0]}
    return found


def record(verdicts: Sequence[Mapping[str, Any]], file: Path = FILE) -> dict[str, bool]:
    """Write what planted experiments show into the file, in place of what it said of these probes on these bases.

    Of several experiments that show the same probe, one in which it is primary counts, and of these the one with the
    least adjusted p.  Returns by probe whether its plant was detected.
    """
    entries = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    done: dict[str, bool] = {}
    fresh: list[tuple[dict[str, Any], str]] = []
    for verdict in verdicts:
        base = Base.model_validate(verdict["base"])
        about = {"world": size_of(base.world)} if base.world else {"base": base.hub or base.path or base.gguf}
        entry = next((e for e in entries if e.items() >= about.items()), None)
        if entry is None:
            entry = {**about, "probes": {}}
            entries.append(entry)
        for name, shown in shown_by(verdict).items():
            again = (entry, name) in fresh
            if not again or _order(shown) < _order(entry["probes"][name]):
                entry["probes"][name] = shown
            fresh.append((entry, name))
            done[name] = entry["probes"][name]["detected"]
    write_text(file, json.dumps(entries, indent=1, sort_keys=True) + "\n")
    return done


def _order(shown: Mapping[str, Any]) -> tuple[bool, float]:
    return not shown["primary"], shown["p_adjusted"]
