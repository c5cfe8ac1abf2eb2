"""A blind experiment: who is who stays hidden in everything that is shown of its results, until it is unblinded.

Two personas appear as X and Y, more as X1, X2 …, and characters that are no arm as Z1, Z2 …, in an order drawn from
a salt.  The salt lies in the experiment's folder, its hash in the lock: what was drawn cannot be drawn again.  Rows
are renamed before they are judged, so that nothing later (the order of a pair, a sign, a colour) can tell.  What
would name a persona by its content (questions, texts, the lock, the data of an arm) is withheld, and so is whatever
depends on who comes first.  `cells.json`, the lock and the cells themselves are internal and name everyone.

Blinding keeps a reader from seeing whom a number favours while decisions can still be made (MacCoun & Perlmutter
2015).  It does not hide what a reader could infer from a base model that already favours somebody.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.design import Design
from eval.lock import LOCK, read_lock
from eval.wording import plain
from recipes.errors import InputError
from recipes.references import PREFIX
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import write_json

if TYPE_CHECKING:
    import polars as pl

SALT, RECORD, READ_BLIND = "blind.json", "unblinded.json", "verdict.blind.json"
WITHHELD = "withheld while blind"
SHUT = {"unblinded": None}  # what a verdict says of itself while it is blind
# Keys of a verdict that depend on which persona comes first, or on who is who.
DEPENDENT = ("hypotheses", "cast", "references")
# What of a lock and of its recipe names nobody and may be shown.
OPEN_LOCK = (
    "schema", "recipe_hash", "analysis", "analysis_source", "commit", "dirty", "alpha", "seeds", "match", "claim",
    "primary", "probes", "probe_sources", "margins", "questions", "blind",
)  # fmt: skip
OPEN_RECIPE = ("base", "seeds", "stages", "probes")


@dataclass(frozen=True)
class Blind:
    """Labels by persona id, and the `words` (ids, names, parts of names) that must not be shown."""

    labels: Mapping[str, str]
    words: tuple[str, ...]

    def label(self, arm: str) -> str:
        """An arm or persona by its label, e.g. ``prompted/X``; what names nobody stays."""
        return "/".join(self.labels.get(part, part) for part in arm.split("/"))

    def frames(self, frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Measurement rows with labels for arms and personas, less those of reference arms (which favour the first)."""
        import polars as pl

        for frame in frames:
            there = [name for name in ("arm", "persona") if name in frame.columns]
            if "arm" in there:
                frame = frame.filter(~pl.col("arm").str.starts_with(PREFIX))
            names = {n: self.label(n) for col in there for n in frame[col].unique().drop_nulls().to_list()}
            yield frame.with_columns(pl.col(name).replace(names) for name in there)

    def design(self, design: Design) -> Design:
        """The design with labels; arms and pairs in their order, so that it tells nothing of the recipe's."""
        pairs = (tuple(sorted(map(self.label, pair), key=_place)) for pair in design.pairs)
        return replace(
            design,
            arms=tuple(sorted(map(self.label, design.arms), key=_place)),
            pairs=tuple((a, c) for a, c in sorted(pairs, key=lambda pair: tuple(map(_place, pair)))),
        )

    def failed(self, failed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Failed runs of the arms with labels, in an order of their own."""
        arms = [one for one in failed if not one["arm"].startswith(PREFIX)]
        told = [dict(one) | {"arm": self.label(one["arm"]), "what": self.text(str(one["what"]))} for one in arms]
        return sorted(told, key=lambda one: (_place(one["arm"]), one["seed"], one["stage"]))

    def text(self, text: str) -> str:
        """Text in which no persona is named."""
        return _pattern(self.words).sub(f"({WITHHELD})", text) if self.words else text

    def plain(self, value: Any) -> Any:
        """Plain data in which no persona is named, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.plain(one) for key, one in value.items()}
        return [self.plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    def verdict(self, verdict: Mapping[str, Any]) -> dict[str, Any]:
        """A verdict that was judged with labels, less what still names someone."""
        told = {key: value for key, value in verdict.items() if key not in DEPENDENT}
        kept = {key: told[key] for key in ("rows", "arms", "failed") if key in told}
        shown = {key: self.plain(value) for key, value in told.items() if key not in kept}
        if shown.get("experiment") != told.get("experiment"):
            shown["experiment"] = f"blind-{str(told['recipe_hash'])[:8]}"
        plant = told.get("plant")
        if plant:  # whoever planted it knows in which arm, so that its label would name that arm
            shown["plant"] = {kind: of | {"arm": WITHHELD} for kind, of in plant.items()}
        return shown | kept | {"question": None}

    def lock(self, lock: Mapping[str, Any]) -> dict[str, Any]:
        """What of the lock can be shown."""
        told = {key: self.plain(lock[key]) for key in OPEN_LOCK if key in lock}
        recipe = {key: self.plain(lock["recipe"][key]) for key in OPEN_RECIPE if key in lock["recipe"]}
        return told | {"recipe": recipe, "everything else": WITHHELD}

    def matching(self, lines: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
        """The table of matched data with the range over arms in place of each arm's own value."""
        shown = []
        for line in lines:
            values = [line[arm] for arm in arms if arm in line]
            whole = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values) and values
            ends = dict.fromkeys(map(plain, (min(values), max(values)))) if whole else (WITHHELD,)
            labels = dict.fromkeys(map(self.label, arms), " to ".join(ends))
            shown.append({"what": self.text(str(line.get("what")))} | labels | {"equal": line.get("equal")})
        return shown


def _place(label: str) -> tuple[int, str]:
    """Sort key of labels: X2 before X10."""
    return len(label), label


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words, whatever the case; one that could be part of a hash or of any word only where it is alone."""
    edge = "[^\\W_]"
    loose = [w for w in words if len(w) > 3 and not set(w.lower()) <= set("abcdef0123456789")]
    parts = [re.escape(w) if w in loose else f"(?<!{edge}){re.escape(w)}(?!{edge})" for w in words]
    return re.compile("|".join(parts), re.IGNORECASE)


def drawn(salt: str, arms: Sequence[str], cast: Sequence[str]) -> dict[str, str]:
    """Labels by persona id, in the order of SHA-256 of salt and id: X and Y, or X1, X2 …; Z1 … for the others."""

    def shuffled(ids: Iterable[str]) -> list[str]:
        return sorted(ids, key=lambda id: hashlib.sha256(f"{salt} {id}".encode()).hexdigest())

    names = ["X", "Y"] if len(arms) == 2 else [f"X{n}" for n in range(1, len(arms) + 1)]
    labels = dict(zip(shuffled(arms), names, strict=True))
    others = shuffled(id for id in cast if id not in labels)
    return labels | {id: f"Z{n}" for n, id in enumerate(others, 1)}


def words_of(cast: Sequence[str], scenes: Sequence[Scene]) -> tuple[str, ...]:
    """What names a persona: ids, names and the longer words of names, longest first, so that a whole name goes at once.

    In a world the names are syllables drawn anew for each seed (some are common words); only texts have them.
    """
    personas = [persona for scene in scenes if not scene.bindings for persona in scene.personas]
    names = {persona.name for persona in personas}
    parts = {part for persona in personas for part in persona.name_words}
    return tuple(sorted({*cast, *names, *parts}, key=lambda word: (-len(word), word)))


def blinding(folder: Path, lock: Mapping[str, Any], scenes: Sequence[Scene]) -> Blind | None:
    """How an experiment is to be shown; None where it was never blind or has been unblinded.

    InputError: the salt is missing or is not the one that was locked.
    """
    if not lock.get("blind") or (folder / RECORD).is_file():
        return None
    try:
        salt = str(json.loads((folder / SALT).read_text(encoding="utf-8"))["salt"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / SALT}: unreadable; the labels of a blind experiment are drawn from it") from error
    if _hash(salt) != lock["blind"]:
        raise InputError(f"{folder / SALT}: not the salt that was locked; it cannot be drawn again")
    recipe = lock["recipe"]
    return Blind(drawn(salt, recipe["arms"], recipe["cast"]), words_of(recipe["cast"], scenes))


def _hash(salt: str) -> str:
    return hashlib.sha256(salt.encode()).hexdigest()


def seal(folder: Path, recipe: Recipe) -> str | None:
    """What the lock has of blinding: the hash of the salt, which is drawn when there is no lock yet.

    InputError where an experiment that was locked open is asked to be blind, or the other way round.
    """
    asked = recipe.judge.blind
    if (folder / LOCK).is_file():
        locked = read_lock(folder).get("blind")
        if asked and not locked:
            raise InputError(f"{folder}: was locked without judge.blind; what was open cannot be made blind")
        if locked and not asked and not (folder / RECORD).is_file():
            raise InputError(f"{folder}: was locked with judge.blind; `parity unblind` opens it")
        return locked
    if not asked:
        return None
    if not (folder / SALT).is_file():
        write_json(folder / SALT, {"schema": 1, "salt": secrets.token_hex(16)})
    return _hash(json.loads((folder / SALT).read_text(encoding="utf-8"))["salt"])


def state(folder: Path, lock: Mapping[str, Any]) -> dict[str, Any]:
    """What verdict.json says of blinding: nothing where the experiment never was blind."""
    if not lock.get("blind"):
        return {}
    path = folder / RECORD
    return {"blind": {"unblinded": json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else SHUT}


def unblind(folder: Path) -> dict[str, Any]:
    """Record that an experiment was unblinded, and after how much was seen; it is then to be judged again.

    The verdict as it was read blind is kept beside, and its hash in the record.  A second time changes nothing.
    InputError where the experiment never was blind or has no blind verdict yet.
    """
    if not read_lock(folder).get("blind"):
        raise InputError(f"{folder}: was not locked with judge.blind, so that there is nothing to unblind")
    path = folder / RECORD
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    try:
        read = (folder / "verdict.json").read_bytes()
        verdict = json.loads(read)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'verdict.json'}: no readable verdict; what is unblinded is a verdict") from error
    (folder / READ_BLIND).write_bytes(read)
    record = {"seeds": len(verdict["seeds"]), "verdict": verdict["verdict"], "sha256": hashlib.sha256(read).hexdigest()}
    write_json(path, record)
    return record


def told(verdict: Mapping[str, Any]) -> list[str]:
    """The state of blinding in a sentence, for the table and the report; nothing where it never was blind."""
    found = verdict.get("blind")
    if not found:
        return []
    record = found["unblinded"]
    if record is None:
        return ["Blind: labels stand for personas in an order that was drawn; `parity unblind` names them."]
    later = len(verdict.get("seeds") or []) - record["seeds"]
    since = f"; the {later} seeds added later were judged with the names known" if later > 0 else ""
    return [
        f"Unblinded after {record['seeds']} seeds, when the verdict read blind was {record['verdict']} "
        f"({READ_BLIND}, SHA-256 {record['sha256'][:12]}){since}."
    ]
