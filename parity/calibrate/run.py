"""The calibration: bases, batches, judging, and the result as JSON and as pages.  What is there is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.calibration import NAME, SCHEMA
from eval.cells import ENGINE_VERSION
from eval.lock import ANALYSIS_VERSION, code_commit
from eval.probes import select
from eval.sources import JUDGING, source_hash
from parity import workers
from parity.calibrate import figures, planned
from parity.calibrate.batch import make_rows, stands
from parity.calibrate.checks import checks
from parity.calibrate.conditions import (
    FULL,
    NULL,
    NUMBERS,
    PARTS,
    QUICK,
    Condition,
    Numbers,
    conditions,
    load,
)
from parity.calibrate.look import Shift, found, look, look_shifted, said_of
from parity.calibrate.page import markdown, page
from parity.devices import cores
from parity.progress import Progress
from parity.train import make_inline
from recipes.hashing import recipe_hash
from recipes.schema import Recipe
from recipes.store import Store, locked, write_json, write_text
from training.cells import base_cell

FOLDER = "calibration"
MARGINS = (0.5, 1.0, 2.0)  # differences, in margins, that are added to the null
SHIFTED = 40  # experiments that they are added to
# Processor seconds: a step of a run and a probe on a model cost about as much.  For the plan alone.
FEWEST = 32  # batches below which judging them takes less than starting processes does
SECONDS = {"unit": 0.0155, "base step": 0.11}


@dataclass(frozen=True)
class Options:
    """What to calibrate, and where its work lies; `workers` None: a process a core."""

    out: Path = Path("checkpoints")
    parts: tuple[str, ...] = PARTS
    quick: bool = False
    recipe: Path | None = None
    probes: tuple[str, ...] = ()
    to: Path | None = None  # where the result goes; None: beside the work
    numbers: Numbers | None = None
    workers: int | None = None

    @property
    def file(self) -> Path:
        """The recipe that is repeated."""
        return self.recipe or (QUICK if self.quick else FULL)

    @property
    def many(self) -> Numbers:
        """How many experiments."""
        return self.numbers or NUMBERS["quick" if self.quick else "full"]

    @property
    def root(self) -> Path:
        """Where cells, rows and the result lie."""
        return self.out / FOLDER


def plan_lines(options: Options) -> list[str]:
    """What is printed before the work.  InputError where the recipe cannot be calibrated."""
    recipe = load(options.file, options.probes)
    wanted = conditions(recipe, options.parts, options.many)
    batches = [batch for condition in wanted for batch in condition.batches]
    left = [batch for batch in batches if not stands(batch, options.root)]
    runs = recipe.seeds * len(recipe.arms)
    store = Store(options.root)
    bases = {base_cell(c.recipe).hash: c.recipe for c in wanted if not store.has(base_cell(c.recipe).hash)}
    seconds = sum(batch.cost for batch in left) * SECONDS["unit"]
    seconds += sum(r.base.world.steps * SECONDS["base step"] for r in bases.values() if r.base.world)
    many = options.workers or cores()
    return [
        f"calibration {options.root}, recipe {options.file.name}, parts {', '.join(options.parts)}",
        f"conditions  {', '.join(f'{len(c.batches)} {c.name}' for c in wanted)}",
        f"runs        {len(batches)} x {runs}; {len(left) * runs} to train, {len(bases)} bases to make",
        f"cost        about {seconds / many / 60:.0f} minutes on {many} cores",
    ]


def calibrate(options: Options) -> dict[str, Any]:
    """Carry the calibration out and return its result, which is also written; InputError when another is at work."""
    recipe = load(options.file, options.probes)
    wanted = conditions(recipe, options.parts, options.many)
    busy = f"{options.root}: another calibration is at work here; wait for it or stop it"
    with locked(options.root / ".lock", wait=False, message=busy):
        _bases(options, wanted)
        jobs = [batch for condition in wanted for batch in condition.batches]
        left = [batch for batch in jobs if not stands(batch, options.root)]
        _each(options, "calibrating", make_rows, left, sum(b.cost for b in left), options.root, options.file)
        looks = [(batch, condition.kind) for condition in wanted for batch in condition.batches]
        _each(options, "judging", look, looks, len(looks), options.root, fewest=FEWEST)
        result = _result(options, recipe, wanted)
        write(options.to or options.root, result)
    return result


def _each(
    options: Options, phase: str, work: Callable[..., Any], jobs: Sequence[Any], total: int, *shared: Any,
    fewest: int = 1,
) -> None:  # fmt: skip
    """Do all jobs in as many processes as there are cores; in this one where that is asked for, or jobs are few."""
    if not jobs:
        return
    many = min(options.workers or cores(), len(jobs))
    with Progress(phase, total) as progress:
        if options.workers != 1 and len(jobs) >= fewest:
            for done, _ in enumerate(workers.spread(work, jobs, many, *shared, tick=progress.advance), 1):
                progress.note(f"{done} of {len(jobs)}")
            return
        for done, job in enumerate(jobs, 1):
            work(job, *shared)
            progress.note(f"{done} of {len(jobs)}")
            progress.advance(total / len(jobs))


def _bases(options: Options, wanted: Sequence[Condition]) -> None:
    store = Store(options.root)
    missing = {base_cell(c.recipe).hash: c.recipe for c in wanted}
    recipes = [recipe for hash, recipe in missing.items() if not store.has(hash)]
    steps = sum(recipe.base.world.steps for recipe in recipes if recipe.base.world)
    _each(options, "bases", make_base, recipes, steps, options.root)


def make_base(recipe: Recipe, root: Path) -> None:
    """Make the base of a recipe.  Runs in a worker."""
    from parity.train import quiet

    quiet()
    workers.settle(recipe)
    make_inline(recipe, base_cell(recipe), Store(root), workers.count)


def _result(options: Options, recipe: Recipe, wanted: Sequence[Condition]) -> dict[str, Any]:
    by = [(c, [found(batch, options.root) for batch in c.batches]) for c in wanted]
    design = replace(wanted[0].batches[0].design(), match=recipe.judge.match)
    commit, dirty = code_commit()
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "analysis": ANALYSIS_VERSION,
        "analysis_source": source_hash(*JUDGING),
        "engine": ENGINE_VERSION,
        "commit": commit,
        "dirty": dirty,
        "quick": options.quick,
        "parts": list(options.parts),
        "recipe": recipe.model_dump(mode="json", exclude={"launch", "tracking"}),
        "recipe_hash": recipe_hash(recipe),
        "probes": {probe.name: probe.version for probe in select(recipe.probes)},
        "alpha": recipe.judge.alpha,
        "seeds": [recipe.seeds, recipe.seeds // 2],
        "experiments": {c.name: len(c.batches) for c in wanted},
        "failed": sum(one["failed"] for _, of in by for one in of),
    }
    for condition, of in by:
        if condition.kind == NULL:
            result["variances"] = figures.variances(of, design)
            if "null" in options.parts:
                result["null"] = figures.null(of, recipe.judge.alpha)
                result["power"] = _power(options, condition, result["variances"])
                result["looks"] = _looks(options, condition)
            if "coverage" in options.parts:
                result["coverage"] = figures.coverage(of, design)
        if "planted" in condition.parts:
            result.setdefault("planted", []).extend(figures.planted(condition.kind, condition.size, of, design))
        if "confounds" in condition.parts:
            result.setdefault("confounds", []).extend(figures.confounds(condition.kind, condition.size, of, design))
    return {**result, "checks": checks(result)}


def _power(options: Options, condition: Condition, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the judge finds of differences of known size, added to the first experiments of the null."""
    batches = condition.batches[:SHIFTED]
    design = batches[0].design()
    shifts = [Shift(times, figures.shifts_of(known, design, times)) for times in MARGINS]
    _each(options, "known differences", look_shifted, batches, len(batches), options.root, shifts, fewest=FEWEST)
    return figures.power([said_of(batch, options.root) for batch in batches], design)


def _looks(options: Options, condition: Condition) -> dict[str, Any]:
    """What the judge says of the null where it is asked at several numbers of seeds under a plan."""
    batches = condition.batches
    _each(options, "planned looks", planned.look_planned, batches, len(batches), options.root, fewest=FEWEST)
    return planned.figures([planned.said_of(batch, options.root) for batch in batches], batches[0].design().spending)


def write(folder: Path, result: dict[str, Any]) -> None:
    """The result as JSON and the pages made from it, each whole or not at all; the JSON last."""
    result = json.loads(json.dumps(result, sort_keys=True))  # the pages are functions of the JSON as it is read
    write_text(folder / "CALIBRATION.md", markdown(result))
    write_text(folder / "calibration.html", page(result))
    write_json(folder / NAME, result)
