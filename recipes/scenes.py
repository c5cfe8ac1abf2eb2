"""From a recipe and a seed to the scene, for a world and for a real base alike."""

from __future__ import annotations

from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.world import bind_world


def scene_of(recipe: Recipe, seed: int) -> Scene:
    """The scene of one seed; pure Python, the same for the same arguments."""
    if recipe.base.world:
        return bind_world(recipe, seed)
    from recipes.bind import bind_cards

    return bind_cards(recipe, seed)
