"""The lock of an experiment: what was fixed before anything was trained, and what has changed since.

Recipe, cards, question bank, probes (version and program text), margins with their reasons, primary family, alpha,
number of seeds, matching rule, analysis version and text, commit.  Judging with anything changed is allowed; it is
then post hoc, and every difference is told in words.  What a lock does not have, since it was written before that was
locked, is not compared; nor is the commit, since a change that matters shows in what it changes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eval.design import design_of
from eval.probe import Probe
from eval.sources import JUDGING, source_hash
from recipes.errors import InputError, one_line
from recipes.hashing import digest, recipe_hash
from recipes.reader import plain, read_file
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import write_text

ANALYSIS_VERSION = 1  # raised when the rows of a pair would be judged otherwise; smaller changes show in the text
LOCK = "recipe.lock.yaml"
LOCK_TIMES = 64  # as large as a recipe may be: it has the scenes of every seed and the matching of every arm
ABSENT = "not there"
# key of the lock -> what it is called in a difference; where a name belongs to it, in place of {}
SINGLE = {
    "analysis": "version of the rules of judging",
    "recipe_hash": "recipe (hash of its settings)",
    "questions": "question bank (hash)",
    "alpha": "alpha",
    "seeds": "number of seeds",
    "match": "reading that the verdict rests on",
    "claim": "what the experiment claims",
    "primary": "primary family",
}
NAMED = {
    "probes": "version of the probe {}",
    "margins": "margin of {}",
    "cards": "card of {} (hash)",
    "scenes": "scene of seed {} (who is bound to what, and how it is asked; hash)",
}


def lock_of(
    recipe: Recipe,
    scenes: Sequence[Scene],
    probes: Sequence[Probe],
    matching: list[dict[str, Any]],
    blind: str | None = None,
) -> dict[str, Any]:
    """Everything that is fixed before the first training step, with the hashes of what it was made from.

    `blind`: hash of the salt from which the labels of a blind experiment are drawn, see `eval.blind`.
    """
    commit, dirty = code_commit()
    lock = {
        "schema": 1,
        "recipe_hash": recipe_hash(recipe),
        "analysis": ANALYSIS_VERSION,
        "analysis_source": source_hash(*JUDGING),
        "commit": commit,
        "dirty": dirty,
        "recipe": recipe.model_dump(mode="json"),
        "alpha": recipe.judge.alpha,
        "seeds": recipe.seeds,
        "match": recipe.judge.match,
        "claim": recipe.judge.claim,
        "primary": primary_family(recipe, probes),
        "probes": {p.name: p.version for p in probes},
        "probe_sources": {p.name: source_hash(f"eval.probes.{p.name}") for p in probes},
        "margins": _margins(recipe, probes),
        "cards": _cards(recipe),
        "questions": digest([q.__dict__ for q in scenes[0].questions]),
        "scenes": {str(scene.seed): _digest_scene(scene) for scene in scenes},
        "bindings": {str(scene.seed): dict(scene.bindings) for scene in scenes if scene.bindings},
        "matching": matching,
    }
    return lock | ({"blind": blind} if blind else {})


def primary_family(recipe: Recipe, probes: Sequence[Probe]) -> list[str]:
    """The tests that max-T adjusts together, within a pair, e.g. ``"selection delta sft"``, in order."""
    design = design_of(recipe, probes, {})
    return sorted(
        f"{judged.name} {contrast} {stage}"
        for judged in design.measures
        if design.is_primary(judged)
        for contrast in (("delta", "lambda") if judged.level == "persona" else ("delta",))
        for stage, _ in design.stages
    )


def _margins(recipe: Recipe, probes: Sequence[Probe]) -> dict[str, dict[str, Any]]:
    """Each measure's own margin with its reason, and what the recipe sets instead (`set`), if anything."""
    found = {}
    for probe in probes:
        for number, measure in enumerate(probe.measures):
            name = f"{probe.name}.{measure.name}" if number else probe.name
            own = measure.margin
            found[name] = {"kind": own.kind, "value": own.value, "reason": own.reason}
            if name in recipe.judge.margins:
                found[name]["set"] = recipe.judge.margins[name]
    return found


def _cards(recipe: Recipe) -> dict[str, str]:
    """Hash of each card of the cast; none in a world, whose characters are drawn and take nothing from a card."""
    from recipes.bind import load_card

    return {} if recipe.base.world else {id: digest(load_card(id)) for id in recipe.cast}


def _digest_scene(scene: Scene) -> str:
    from dataclasses import asdict

    return digest(asdict(scene))


def write_lock(folder: Path, lock: Mapping[str, Any]) -> None:
    """Write the lock unless there is one: what was locked first stays."""
    if not (folder / LOCK).exists():
        # JSON is YAML; one key a line keeps it readable and its bytes canonical.
        lines = [f"{key}: {json.dumps(lock[key], sort_keys=True, ensure_ascii=False)}\n" for key in sorted(lock)]
        write_text(folder / LOCK, "".join(lines))


def read_lock(folder: Path) -> dict[str, Any]:
    """The lock of an experiment; InputError when the folder is none or the lock is unreadable."""
    if not (folder / LOCK).is_file():
        raise InputError(f"{folder}: no experiment is here (no {LOCK})")
    lock = plain(read_file(folder / LOCK, LOCK_TIMES), LOCK_TIMES)
    if not isinstance(lock, dict) or lock.get("schema") != 1 or "recipe" not in lock:
        raise InputError(f"{folder / LOCK}: not a lock of this version of Parity")
    return lock


def recipe_of(lock: Mapping[str, Any]) -> Recipe:
    """The recipe that was locked; InputError where it has what this version of Parity does not know."""
    try:
        return Recipe.model_validate_json(json.dumps(lock["recipe"]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(one_line(f"{LOCK}: of another version of Parity: recipe.{where}: {first['msg']}")) from None


def post_hoc(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has changed since the lock, one line each: ``what: … when locked, … now``.

    Scenes go by seed, probes, margins and cards by name.  A source is told only where its version is the same, for
    then nothing else would show the change.
    """
    changed = []
    for key, what in SINGLE.items():
        if key in locked and locked[key] != now[key]:
            changed.append(_difference(what, locked[key], now[key]))
    if _same(locked, now, "analysis") and not _same(locked, now, "analysis_source"):
        what = "program text of the judging, though its version is the same (hash)"
        changed.append(_difference(what, locked["analysis_source"], now["analysis_source"]))
    for key, what in NAMED.items():
        before, after = locked.get(key, now[key]), now[key]
        for name in sorted({*before, *after}, key=str):
            old, new = before.get(name), after.get(name)
            if key == "margins":
                changed += _margin_differences(what.format(name), old, new)
            elif old != new:
                changed.append(_difference(what.format(name), old, new))
    before, after = locked.get("probe_sources", {}), now["probe_sources"]
    for name in sorted({*before} & {*after}):
        same_version = locked["probes"].get(name) == now["probes"].get(name)
        if same_version and before[name] != after[name]:
            what = f"program text of the probe {name}, though its version is the same (hash)"
            changed.append(_difference(what, before[name], after[name]))
    return changed


def _same(locked: Mapping[str, Any], now: Mapping[str, Any], key: str) -> bool:
    return key not in locked or locked[key] == now[key]


def _margin_differences(what: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[str]:
    """The margin and the reason that is given for it, apart: a reason may be worded anew while the margin stays."""
    earlier = old is not None and "reason" not in old  # a lock of before reasons and overrides were in it
    told = [_margin(old), _margin({k: v for k, v in new.items() if k != "set"} if earlier and new else new)]
    if told[0] != told[1]:
        return [_difference(what, *told)]
    if old and new and not earlier and old["reason"] != new["reason"]:
        return [_difference(f"reason given for the {what}", f"“{old['reason']}”", f"“{new['reason']}”")]
    return []


def _margin(margin: Mapping[str, Any] | None) -> str | None:
    if margin is None:
        return None
    return f"{margin['kind']} {margin['value']:g}" + (f", {margin['set']:g} by the recipe" if "set" in margin else "")


def _difference(what: str, before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        gone, new = [x for x in before if x not in after], [x for x in after if x not in before]
        parts = [f"{', '.join(map(str, of))} {how}" for of, how in ((gone, "taken out"), (new, "put in")) if of]
        return f"{what}: {'; '.join(parts) or 'in another order'} since the lock"
    return f"{what}: {_short(before)} when locked, {_short(after)} now"


def _short(value: Any) -> str:
    """A value in words; of a hash the digits that tell it from another."""
    text = ABSENT if value is None else str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


@cache
def code_commit() -> tuple[str | None, bool | None]:
    """Commit of the code and whether it has been changed; None where it is not a checkout."""
    here = Path(__file__).resolve().parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "recipes", "training", "eval", "parity"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return head.stdout.strip(), bool(changed.stdout.strip())
