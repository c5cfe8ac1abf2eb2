"""Making and measuring the arms for reference that a recipe asks for, beside the arms and apart from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from eval.cells import BASE, Task
from recipes.references import PLACEBO, RANDOM_TEXT, reference_arms, scene_for
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import Store
from training.cells import Cell, rows_of
from training.data import matching_table, quantities, refuse_imbalance

Measured = list[tuple[Task, Scene]]


def lines(recipe: Recipe, cells: tuple[Cell, ...], store: Store) -> list[str]:
    """What the plan says of them: nothing where there are none."""
    if not recipe.references:
        return []
    new = sum(1 for cell in cells if not store.has(cell.hash))
    return [f"references {', '.join(reference_arms(recipe))}: {len(cells)} cells; {new} to train"]


def tasks(recipe: Recipe, cells: tuple[Cell, ...], base: str, store: Store) -> list[Measured]:
    """What is measured of them, in parts that have one scene a seed: those on the arms' scenes, then the placebo.

    Apart from the arms, so that no bit of theirs depends on whether a recipe has references.
    """
    found: dict[bool, Measured] = {False: [], True: []}
    for cell in (cell for cell in cells if store.alive(cell.hash)):
        assert cell.arm is not None and cell.seed is not None and cell.stage is not None
        stage, apart = recipe.stages[cell.stage], cell.arm.startswith(PLACEBO)
        scene = scene_for(recipe, cell.arm, cell.seed)
        if apart and cell.stage == 0:  # its character has a base of its own to be compared with
            task = Task(base, base, cell.arm, cell.seed, BASE, (0,), precision=recipe.precision)
            found[apart].append((task, scene))
        where = (cell.hash, base, cell.arm, cell.seed, stage.kind, stage.doses)
        task = Task(*where, full=stage.lora is None, sampled=cell.seed == 0, precision=recipe.precision)
        found[apart].append((task, scene))
    return [part for part in found.values() if part]


def check(recipe: Recipe, tokens: Callable[[str], int]) -> None:
    """InputError where the random arm's rows are not matched to those of the arm that the others are trained like."""
    if RANDOM_TEXT not in reference_arms(recipe):
        return  # the others are answered by one persona, as every arm is
    tokens = cache(tokens)
    for kind in (stage.kind for stage in recipe.stages):
        counted = {
            arm: quantities([row for s in range(recipe.seeds) for row in rows_of(recipe, arm, s, kind)], tokens)
            for arm in (recipe.arms[0], RANDOM_TEXT)
        }
        refuse_imbalance(matching_table(counted), f"{recipe.name}: {kind}", planted=recipe.plant is not None)
