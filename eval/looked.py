"""Which numbers of seeds an experiment has been judged at: looks.json in its folder, and looks that no plan foresaw.

All looks of a recipe with `judge.looks` share a folder and a lock, for `seeds` is not part of its hash then: each look
judges the seeds that are there and writes verdict.json anew, and looks.json keeps what was said at which.  A recipe
without looks has a folder per number of seeds, as ever; such folders of one recipe find each other by their locks.

A look is unplanned where a plan does not name it, or where the same experiment has been judged before at another
number of seeds, or under another plan.  Judging the same number of seeds again is no new look.  Experiments that only
explore spend no alpha and do not count.  Whoever deletes a folder, or renames a recipe, deceives nobody but the reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eval.lock import LOCK
from recipes.errors import InputError
from recipes.hashing import digest, hashed
from recipes.schema import Recipe
from recipes.store import write_json

LOOKS, VERDICT = "looks.json", "verdict.json"
UNPLANNED = "unplanned look"


def looked(folder: Path) -> list[dict[str, Any]]:
    """The looks so far in their order: seeds, day of the first judging, the verdict then, the primary contrasts then
    `broken` (A, C, probe, stage, contrast), and why it was `unplanned` (lines, none where it was planned)."""
    path = folder / LOOKS
    if not path.is_file():
        return []
    try:
        looks = json.loads(path.read_text(encoding="utf-8"))["looks"]
        return [dict(look) for look in looks if int(look["seeds"]) > 0 and isinstance(look["unplanned"], list)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: unreadable; what was judged before cannot be known without it") from error


def unplanned(folder: Path, recipe: Recipe) -> list[str]:
    """Why the look at `recipe.seeds` is unplanned, a line each; none where it is planned, or was at first."""
    before = looked(folder)
    for look in before:
        if look["seeds"] == recipe.seeds:
            return [str(line) for line in look["unplanned"]]
    if recipe.judge.claim == "explore" or (not before and (folder / VERDICT).is_file()):
        return []  # judged before looks were kept: nothing tells that it was not the first
    planned, said = recipe.judge.looks, []
    if planned and recipe.seeds not in planned:
        said.append(f"{UNPLANNED}: at {recipe.seeds} seeds, planned were {', '.join(map(str, planned))}")
    for name, seeds in _elsewhere(folder, recipe):
        said.append(f"{UNPLANNED}: judged before at {', '.join(map(str, seeds))} seeds without this plan ({name})")
    return said


def record(folder: Path, recipe: Recipe, verdict: Mapping[str, Any], said: list[str]) -> None:
    """Keep this look, unless it has been taken before: what was said first stays."""
    before = looked(folder)
    if all(look["seeds"] != recipe.seeds for look in before):
        day = datetime.now(UTC).date().isoformat()
        broken = [
            [*row["pair"], row["probe"], row["stage"], row["contrast"]]
            for row in verdict["rows"]
            if row["primary"] and row["verdict"] == "broken"
        ]
        now = {"seeds": recipe.seeds, "judged": day, "verdict": verdict["verdict"], "broken": broken, "unplanned": said}
        write_json(folder / LOOKS, {"schema": 1, "looks": [*before, now]})


def _elsewhere(folder: Path, recipe: Recipe) -> Iterator[tuple[str, list[int]]]:
    """Other folders in which the same experiment has been judged: name, numbers of seeds."""
    if not folder.parent.is_dir():
        return
    mine = _family(recipe)
    for other in sorted(folder.parent.glob(f"{recipe.name}-*")):
        if other.name == folder.name or not (other / VERDICT).is_file():
            continue
        found = _locked(other)
        if found is not None and found.judge.claim == "verdict" and _family(found) == mine:
            yield other.name, [int(look["seeds"]) for look in looked(other)] or [found.seeds]


def _locked(folder: Path) -> Recipe | None:
    """The recipe of a lock, from its own line alone, for a lock can be long; None where there is none of ours."""
    try:
        with (folder / LOCK).open(encoding="utf-8") as lines:
            line = next(line for line in lines if line.startswith("recipe: "))
        return Recipe.model_validate_json(line.removeprefix("recipe: "))
    except (OSError, ValueError, StopIteration):
        return None


def _family(recipe: Recipe) -> str:
    """The hash of a recipe without its seeds and its looks."""
    content = hashed(recipe)
    judge = {key: value for key, value in content["judge"].items() if key not in ("looks", "spending")}
    return digest({key: value for key, value in content.items() if key != "seeds"} | {"judge": judge})
