"""A whole verdict (train, measure, judge): this lab, and a trainer per run and an evaluation per dose."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eval.cells import PROMPTED, Task
from parity.bench.score import BATCHES, Harness, choices_of, fastest, load
from parity.bench.timing import OURS, USUAL, Side, alternate, compared
from parity.bench.training import scratch_folder
from parity.plan import Plan, make_plan
from parity.run import run
from parity.train import make_inline, quiet
from recipes.load import load_recipe


def compare(
    path: Path, seeds: int, base: Path, repeats: int, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Both sides on the recipe with `seeds` seeds, from a base that is there to the judged verdict.

    The usual route gets the judging and the sample answers for nothing: it stops at the numbers.
    """
    import torch

    settings = [f"seeds={seeds}", "judge.claim=explore", "launch.backend=lockstep"]
    recipe = load_recipe(path, settings)
    quiet()
    with scratch_folder() as scratch:
        plan = make_plan(recipe, scratch / "store")

        def fresh() -> None:
            shutil.rmtree(plan.store.root, ignore_errors=True)
            shutil.copytree(base, plan.store.cell(plan.base.hash))

        many = torch.get_num_threads()
        fresh()
        model, tokenizer = load(base)
        harness, asked = Harness(model, tokenizer), choices_of(recipe, plan.scenes[0])
        trials = {(t, b): partial(harness, asked, b) for t in sorted({1, many}) for b in BATCHES}
        (threads, batch), _ = fastest(trials, harness.give_up)
        sides = {
            OURS: Side(lambda: run(make_plan(recipe, plan.store.root), path, settings), many, fresh, processes=True),
            USUAL: Side(lambda: usual_route(plan, base, batch), threads, fresh),
        }
        alternate(sides, repeats, tick)
    return compared(sides) | {
        "runs": len(recipe.arms) * seeds,
        "measurements": sum(len(task.doses) for task in plan.tasks),
        "requests": len(asked),
        "batch_size": batch,
    }


def usual_route(plan: Plan, base: Path, batch: int) -> int:
    """Train every run with TRL, then load and evaluate every dose by itself; returns how many numbers came out."""
    for cell in plan.cells:
        make_inline(plan.recipe, cell, plan.store)
    return sum(_evaluate(plan, task, dose, base, batch) for task in plan.tasks for dose in task.doses)


def _evaluate(plan: Plan, task: Task, dose: int, base: Path, batch: int) -> int:
    from peft import PeftModel

    model, tokenizer = load(base)
    if task.stage != "base":
        model = PeftModel.from_pretrained(model, plan.store.cell(task.cell) / f"dose-{dose}").eval()
    assert task.stage == "base" or not task.arm.startswith(PROMPTED)
    return len(Harness(model, tokenizer)(choices_of(plan.recipe, plan.scene(task)), batch))
