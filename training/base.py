"""The base model of a recipe as a cell: made once, by training a world or by fetching a real model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recipes.schema import Recipe
from recipes.store import SCRATCH, Store
from recipes.world import world_content
from training.cells import Cell, base_cell


def make_base(recipe: Recipe, store: Store, callbacks: Sequence[Any] = ()) -> Cell:
    """Make the recipe's base unless it is there; a killed world goes on from its last checkpoint."""
    cell = base_cell(recipe)
    if store.has(cell.hash):
        return cell
    with store.making(cell.spec) as folder:
        if folder is not None and recipe.base.world is not None:
            from training.world import train_world

            content = world_content(recipe)
            train_world(recipe.base.world, content, recipe.transcript, folder, folder / SCRATCH, list(callbacks))
        elif folder is not None:
            from training.bases import materialise

            materialise(recipe.base, folder)
    return cell
