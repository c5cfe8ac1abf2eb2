"""What an experiment could show, said before it is run: smallest p, looks, power, seeds, minutes.

Power needs variances, and those come from data: a pilot's verdict.json, this experiment's own earlier one, or
docs/calibration.json, where it is of a world of this size and of these stages.  Without any of them it is unknown, and
said to be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from eval.calibration import FILE as CALIBRATION
from eval.calibration import read as read_calibration
from eval.lock import primary_family
from eval.looked import unplanned
from eval.looks import plan as plan_of_looks
from eval.power import WANTED, power, sd_of_interval, seeds_for, seeds_for_equivalence
from eval.probes import select
from eval.sensitive import size_of
from eval.signflip import smallest_p
from eval.wording import probability, visible
from parity.plan import Plan
from recipes.errors import InputError, one_line
from recipes.schema import Recipe

VERDICT = "verdict.json"
SYMBOLS = {"delta": "Δ", "lambda": "Λ"}


@dataclass(frozen=True)
class Variance:
    """One primary contrast as known from data: its standard deviation over seeds and its margin, in one unit."""

    name: str
    sd: float
    margin: float

    @property
    def effect(self) -> float:
        """The margin in seed standard deviations."""
        return self.margin / self.sd if self.sd > 0 else inf


def foresee(plan: Plan, pilot: Path | None = None, calibration: Path = CALIBRATION) -> dict[str, Any]:
    """What is locked besides the recipe: plain data, under the keys smallest_p, looks, power and minutes.

    InputError where `pilot` has no readable verdict, or one without a contrast of this recipe's primary family.
    """
    recipe = plan.recipe
    looks = looks_of(recipe.planned) if recipe.judge.looks else []
    found: dict[str, Any] = {
        "smallest_p": min(1.0, smallest_p(recipe.planned.seeds) * len(recipe.contrasts)),
        "looks": looks,
        "spending": recipe.judge.spending if looks else None,
        "minutes": plan.seconds(plan.to_make) / 60 if recipe.base.world else None,
        "power": None,
    }
    source, rows = _known(plan, pilot, calibration)
    if rows:
        found["power"] = _power(recipe, source, rows, looks)
    return found


def looks_of(recipe: Recipe) -> list[dict[str, Any]]:
    """The looks of a recipe up to its seeds: see `eval.looks.plan`."""
    judge = recipe.judge
    return plan_of_looks(judge.looks, recipe.seeds, judge.alpha, judge.spending, len(recipe.contrasts))


def lines(plan: Plan, found: Mapping[str, Any]) -> Iterator[str]:
    """What is printed of it, besides what the plan itself says; labels are as wide as the plan's."""
    recipe, told = plan.recipe, found["power"]
    if found["looks"]:
        sizes = ", ".join(str(look["seeds"]) for look in found["looks"])
        bounds = ", ".join(probability(look["bound"]) for look in found["looks"])
        yield (
            f"looks      at {sizes} seeds; p below about {bounds} (spending {recipe.judge.spending}), in all below "
            f"{probability(recipe.judge.alpha)}; now {recipe.seeds}"
        )
    for line in unplanned(plan.folder, recipe):
        yield f"post hoc   {line}"
    if told is None:
        yield "power      unknown: no variances yet (--pilot EXPERIMENT reads those of another experiment)"
        return
    sizes = f"{told['seeds']} seeds"
    yield (
        f"power      {probability(told['twice_margin'])} to call twice the margin broken with {sizes}, "
        f"{probability(told['margin'])} that an effect of the margin is significant; least of {told['contrasts']} "
        f"primary contrasts: {told['weakest']} (max-T over {told['tests']} independent tests, a lower bound)"
    )
    yield (
        f"seeds      {_seeds(told['seeds_for_power'])} for power {probability(WANTED)} at twice the margin, "
        f"{_seeds(told['seeds_for_equivalence'])} to show equivalence where there is no difference"
    )
    yield f"variances  {told['source']}"


def _seeds(number: int | None) -> str:
    return "too many to name" if number is None else str(number)


def _power(recipe: Recipe, source: str, rows: list[Variance], looks: list[dict[str, Any]]) -> dict[str, Any]:
    """Power and seeds by the contrast in which the margin is fewest standard deviations."""
    pairs, seeds, alpha = len(recipe.contrasts), recipe.planned.seeds, recipe.judge.alpha
    level = (looks[-1]["bound"] if looks else alpha) / pairs
    one_sided = looks[-1]["equivalence"] if looks else alpha
    tests = max(len(primary_family(recipe, select(recipe.probes))), 1)
    weakest = min(rows, key=lambda row: row.effect)
    once = weakest.effect
    return {
        "source": source,
        "contrasts": len(rows),
        "tests": tests,
        "seeds": seeds,
        "level": level,
        "weakest": weakest.name,
        "margin_in_sd": once if once < inf else None,
        "margin": power(once, once, seeds, tests, level).test,
        "twice_margin": power(2 * once, once, seeds, tests, level).broken,
        "seeds_for_power": seeds_for(2 * once, once, tests, level),
        "seeds_for_equivalence": seeds_for_equivalence(weakest.sd, weakest.margin, one_sided),
    }


def _known(plan: Plan, pilot: Path | None, calibration: Path) -> tuple[str, list[Variance]]:
    """Where variances are known from, in words, and those of this recipe's primary family."""
    if pilot is not None:
        found = _read(pilot / VERDICT)
        if found is None:
            raise InputError(one_line(f"--pilot {pilot}: no readable verdict.json is there"))
        rows = list(_variances(plan.recipe, found.get("rows")))
        if not rows:
            raise InputError(one_line(f"--pilot {pilot}: has no contrast of this recipe's primary family"))
        return _words(f"the pilot {pilot.name}", found), rows
    found = _read(plan.folder / VERDICT)
    if found is not None and (rows := list(_variances(plan.recipe, found.get("rows")))):
        return _words("its own earlier verdict", found), rows
    found = read_calibration(calibration)
    if found is not None and _same_kind(plan.recipe, found.get("recipe")):
        return "docs/calibration.json", list(_variances(plan.recipe, found.get("variances")))
    return "", []


def _same_kind(recipe: Recipe, content: Any) -> bool:
    """Whether what was calibrated is a world of this size, trained alike: variances hold for nothing else."""
    try:
        calibrated = Recipe.model_validate(content)
    except ValueError:  # of another version
        return False
    ours, theirs = recipe.base.world, calibrated.base.world
    if ours is None or theirs is None or size_of(ours) != size_of(theirs):
        return False
    return recipe.stages == calibrated.stages


def _words(what: str, verdict: Mapping[str, Any]) -> str:
    seeds = verdict.get("seeds")
    return visible(f"{what}, {len(seeds)} seeds" if isinstance(seeds, list) else what)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _variances(recipe: Recipe, rows: Any) -> Iterator[Variance]:
    """The rows of a verdict that are primary in this recipe and have a variance and a margin."""
    stages = [stage.kind for stage in recipe.stages]
    for row in rows if isinstance(rows, list) else ():
        wanted = (
            isinstance(row, dict)
            and row.get("probe") in recipe.judge.primary
            and row.get("stage") in stages
            and row.get("match") == recipe.judge.match
            and row.get("contrast") in SYMBOLS
        )
        sd, margin = (_sd(row), row.get("margin")) if wanted else (None, None)
        if sd is not None and isinstance(margin, (int, float)) and margin > 0:
            name = f"{row['probe']} {SYMBOLS[row['contrast']]} after {row['stage']}"
            yield Variance(visible(name), sd, float(margin))


def _sd(row: Mapping[str, Any]) -> float | None:
    if isinstance(sd := row.get("seed_sd"), (int, float)):
        return float(sd)
    told = [row.get(key) for key in ("low", "high", "level", "n_seeds")]
    low, high, level, seeds = (value if isinstance(value, (int, float)) else None for value in told)
    if low is None or high is None or not level or not seeds:
        return None
    return sd_of_interval(float(low), float(high), float(level), int(seeds))
