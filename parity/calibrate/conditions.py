"""What is calibrated: parts, plants and their sizes, and how many pair-experiments each of them gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import recipes
from eval.design import design_of
from eval.probes import select
from parity.calibrate.batch import Batch
from recipes.errors import InputError, nearest, one_line
from recipes.load import load_recipe
from recipes.schema import (
    Plant,
    PlantedDose,
    PlantedNegatives,
    PlantedPrior,
    PlantedSelfModel,
    Recipe,
)

RECIPES = Path(recipes.__file__).parent
FULL, QUICK = RECIPES / "calibration.yaml", RECIPES / "calibration-quick.yaml"
PARTS = ("null", "planted", "confounds", "coverage")
NULL = "null"
PLANTED = ("dose", "negatives", "self_model")  # what the judge must find
CONFOUNDS = ("prior", "dose")  # what it must not find after adjustment
FACTORS = (1.25, 1.5, 2.0)  # of a dose plant; the middle one is the confound
ROWS = (10, 20, 40)
CONTRADICTED = (1 / 12, 1 / 6, 1 / 4)  # of a world's facts
PRIOR = 4.0
# Seeds of two conditions never meet, so that no two share a run.
APART = 100_000
KINDS = (NULL, "dose", "negatives", "self_model", "prior")


@dataclass(frozen=True)
class Numbers:
    """Pair-experiments: of the null, of each planted size, of each confound; and whether all sizes are planted."""

    null: int
    planted: int
    confounds: int
    curves: bool = True  # else only the middle size of each plant


# 200 false positives out of 4,000 would be known to .7 %, out of 200 to 3 %; power and confounds are coarser.
NUMBERS = {"full": Numbers(200, 8, 20), "quick": Numbers(8, 1, 2, curves=False)}


@dataclass(frozen=True)
class Condition:
    """The null, or a plant of one size, with its independent pair-experiments."""

    kind: str
    size: float  # 0: nothing is planted
    parts: tuple[str, ...]  # that need it
    batches: tuple[Batch, ...]

    @property
    def name(self) -> str:
        """In words, e.g. ``dose 1.5``."""
        return f"{self.kind} {self.size:g}" if self.size else self.kind

    @property
    def recipe(self) -> Recipe:
        """The recipe of its experiments."""
        return self.batches[0].recipe


def parts_of(text: str) -> tuple[str, ...]:
    """The parts that ``--parts`` names, in their own order; InputError for a name that is none."""
    named = [name.strip() for name in text.split(",") if name.strip()]
    for name in named:
        if name not in PARTS:
            raise InputError(one_line(f"--parts {name}: no such part{nearest(name, PARTS)}"))
    if not named:
        raise InputError(f"--parts names no part (valid: {', '.join(PARTS)})")
    return tuple(part for part in PARTS if part in named)


def load(path: Path, probes: Sequence[str] = ()) -> Recipe:
    """The recipe that is repeated, with other `probes` if any are named.

    InputError unless it is about one pair of a world whose characters are drawn, and plants nothing: elsewhere the
    truth is not known.
    """
    recipe = load_recipe(path)
    if probes:  # whatever is not measured cannot be primary
        primary = [name for name in recipe.judge.primary if name in probes]
        chosen = {"probes": probes, "judge.primary": primary or recipe.judge.primary}
        recipe = load_recipe(path, [f"{key}=[{', '.join(names)}]" for key, names in chosen.items()])
    world = recipe.base.world
    lacks = None
    if world is None:
        lacks = "base: a calibration needs a world, where the truth is known"
    elif world.assign != "random":
        lacks = "base.world.assign: must be random, since two fixed characters differ by luck"
    elif recipe.plant is not None:
        lacks = "plant: a calibration plants by itself; leave it out"
    elif len(recipe.arms) != 2 or len(recipe.contrasts) != 1:
        lacks = "arms: a calibration repeats one pair"
    elif recipe.seeds < 4:
        lacks = "seeds: a calibration needs 4 at least, since halves of an experiment are judged too"
    elif world.characters - world.characters // 2 < len(recipe.cast) - 1:
        lacks = "base.world.characters: too few, since half of them are special in a planted world"
    if lacks:
        raise InputError(one_line(f"{path}: {lacks}"))
    design_of(recipe, select(recipe.probes), {})  # says what could not be judged
    return recipe


def conditions(recipe: Recipe, parts: Sequence[str], numbers: Numbers) -> list[Condition]:
    """What has to be made for `parts`; a condition that two of them need is there once."""
    world, arm = recipe.base.world, recipe.contrasts[0][0]
    assert world is not None, "a calibration needs a world"
    facts = sorted({max(1, round(share * world.facts)) for share in CONTRADICTED})
    plants: dict[str, dict[float, Plant]] = {
        "dose": {factor: Plant(dose=PlantedDose(arm=arm, factor=factor)) for factor in FACTORS},
        "negatives": {rows: Plant(negatives=PlantedNegatives(arm=arm, rows=rows)) for rows in ROWS},
        "self_model": {n: Plant(self_model=PlantedSelfModel(arm=arm, facts=n)) for n in facts},
        "prior": {PRIOR: Plant(prior=PlantedPrior(arm=arm, factor=PRIOR))},
    }
    wanted: dict[tuple[str, float], dict[str, int]] = {}
    for part in set(parts) & {"null", "coverage"}:
        wanted.setdefault((NULL, 0), {})[part] = numbers.null
    if "planted" in parts:
        for kind in PLANTED:
            for size in plants[kind]:
                if numbers.curves or size == _middle(plants[kind]):
                    wanted.setdefault((kind, size), {})["planted"] = numbers.planted
    if "confounds" in parts:
        for kind in CONFOUNDS:
            wanted.setdefault((kind, _middle(plants[kind])), {})["confounds"] = numbers.confounds
    found = []
    for (kind, size), of_part in wanted.items():
        place = 100 * KINDS.index(kind) + (sorted(plants[kind]).index(size) if kind != NULL else 0)
        of = recipe.model_copy(update={"plant": plants[kind][size]}) if kind != NULL else recipe
        many = max(of_part.values())
        if many * recipe.seeds > APART:
            most = APART // recipe.seeds
            raise InputError(f"{many} experiments of {recipe.seeds} seeds are too many (at most {most})")
        batches = tuple(Batch(of, place * APART + n * recipe.seeds) for n in range(many))
        found.append(Condition(kind, size, tuple(sorted(of_part)), batches))
    return found


def _middle(sizes: Iterable[float]) -> float:
    rising = sorted(sizes)
    return rising[len(rising) // 2]
