"""Running an experiment: lock, base, stages, measurements, verdict; whatever is there already is not made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import blind
from eval.cells import Task, groups_of
from eval.experiment import judge_experiment, write_cells
from eval.lock import lock_of, post_hoc, read_lock, write_lock
from eval.measurer import Measurer
from eval.probe import Probe
from eval.probes import select
from eval.table import GATE
from parity import estimate, on_ray, references, tracked, workers
from parity.estimate import require_device
from parity.plan import Plan, match
from parity.progress import Progress, say
from parity.retrain import retrain
from parity.train import quiet, train
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import Damaged, locked
from recipes.trust import trusted
from training.config import check_settings

FEWEST_DOSES = 128  # of a small base: below this, starting processes (4 s of imports each) costs more than it saves


def run(plan: Plan, recipe_file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Carry out the plan and return the verdict.  InputError when another run is at work on the experiment."""
    busy = f"{plan.folder}: another run is at work on this experiment; wait for it or stop it"
    with locked(plan.folder / ".lock", wait=False, message=busy):
        probes = select(plan.recipe.probes)
        require_device(plan.recipe)
        check_settings(plan.recipe)
        remove_damaged(plan)
        if plan.matching:  # a world's words are its tokens, so that all is known before anything is trained
            _lock(plan, probes)
        train(plan, [plan.base], recipe_file, overrides)
        if not plan.matching:
            plan.matching.extend(_match_by_tokenizer(plan))
            _lock(plan, probes)
        train(plan, list(plan.cells), recipe_file, overrides)
        train(plan, list(plan.references), recipe_file, overrides)
        measured = [(task, plan.scene(task)) for task in measurable(plan)]
        failed = failures(plan)
        for one in failed:
            who = "a run of" if plan.recipe.judge.blind else one["arm"]  # the verdict tells it by its label
            say(f"{who} seed {one['seed']} failed in {one['stage']}: {one['what']}")
        parts = [measured, *references.tasks(plan.recipe, plan.references, plan.base.hash, plan.store)]
        write_cells(plan.folder, plan.store, plan.base.hash, sum(parts, []), plan.recipe.arms, probes, failed)
        for part in parts:
            measure(plan, part, probes)
        say("judging")
        verdict = judge_experiment(plan.folder, plan.store)
        tracked.mirror(plan, probes, verdict)
    return verdict


def _lock(plan: Plan, probes: Sequence[Probe]) -> None:
    planned = plan.recipe.planned  # all looks have one lock
    scenes = plan.scenes[: planned.seeds]
    now = lock_of(planned, scenes, probes, plan.matching, blind.seal(plan.folder, plan.recipe))
    write_lock(plan.folder, now | ({"foreseen": plan.foreseen} if plan.foreseen else {}))
    for line in post_hoc(read_lock(plan.folder), now):
        say(f"changed since the lock (the verdict will be post hoc): {line}")


def remove_damaged(plan: Plan) -> None:
    """Check every byte of what is there; what is damaged is named and removed, so that it alone is made again."""
    for cell in (plan.base, *plan.cells, *plan.references):
        if plan.store.has(cell.hash):
            try:
                plan.store.check(cell.hash)
            except Damaged as damage:
                say(f"{cell.label}: {damage}; made again")
                plan.store.remove(cell.hash)


def _match_by_tokenizer(plan: Plan) -> list[dict[str, Any]]:
    """The matching table and the check of names by the real tokenizer of the base."""
    from transformers import AutoTokenizer

    from recipes.bind import check_names
    from recipes.templates import check_markers

    base = plan.store.cell(plan.base.hash)
    tokenizer = AutoTokenizer.from_pretrained(base, **trusted(base))
    for scene in plan.scenes:
        check_names(tokenizer, scene)
    check_markers(tokenizer, plan.recipe.transcript)
    return match(plan, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]))


def failures(plan: Plan) -> list[dict[str, Any]]:
    """The runs that diverged, each at the stage where it did."""
    found = []
    for cell in (*plan.cells, *plan.references):
        failure = plan.store.failure(cell.hash)
        if failure is not None:
            what = f"{failure['what']} at step {failure['step']}"
            found.append({"arm": cell.arm, "seed": cell.seed, "stage": cell.spec["kind"], "what": what})
    return found


def measurable(plan: Plan) -> list[Task]:
    """The tasks whose cells stand and have all their doses."""
    return [task for task in plan.tasks if plan.store.alive(task.cell)]


def by_primary(probes: Sequence[Probe], recipe: Recipe) -> list[Probe]:
    """What the verdict hangs on first: strength, the primary probes, then the others."""
    first = (GATE, *recipe.judge.primary)
    return sorted(probes, key=lambda p: first.index(p.name) if p.name in first else len(first))


def measure(plan: Plan, tasks: Sequence[tuple[Task, Scene]], probes: Sequence[Probe]) -> None:
    """Measure what is not measured yet, all cells on one copy of the base (in each process)."""
    arms = plan.recipe.arms
    costs = None if workers.small(plan.recipe) else estimate.costs(plan, probes)
    groups = groups_of(tasks, plan.store, arms, by_primary(probes, plan.recipe), costs)
    if not groups:
        return
    workers.settle(plan.recipe)
    doses = sum(len(group.models) for group in groups)
    few = workers.small(plan.recipe) and doses < FEWEST_DOSES
    many = workers.workers_for(plan.recipe, 1 if few else len(groups))
    with Progress("measuring", sum(group.cost for group in groups)) as progress:
        if many > 1 or plan.on:
            shared = (plan.recipe, plan.store.root, plan.base.hash)
            spread = on_ray.measuring(plan.recipe, plan.store.root) if plan.on else workers.spread
            for _ in spread(workers.measure_group, groups, many, *shared, tick=progress.advance):
                pass
            return
        quiet(training=False)
        measurer = Measurer(plan.store, plan.base.hash, retrain, plan.recipe.precision)
        for group in groups:
            progress.note(group.label)
            for done in measurer.measure(group, arms):
                progress.advance(done)
