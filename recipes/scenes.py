"""From a recipe and a seed to the scene, for a world and for a real base alike."""

from __future__ import annotations

from dataclasses import replace

from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.world import bind_world


def scene_of(recipe: Recipe, seed: int) -> Scene:
    """The scene of one seed; pure Python, the same for the same arguments."""
    if recipe.base.world:
        return _with_facts(bind_world(recipe, seed), recipe.facts_taught)
    from recipes.bind import bind_cards

    return _with_facts(bind_cards(recipe, seed), recipe.facts_taught)


def _with_facts(scene: Scene, most: int | None) -> Scene:
    """The scene without the taught facts beyond the first `most`: nobody is taught them or asked about them, so that
    what is asked is the same however many are taught."""
    if most is None:
        return scene
    gone = {q.id for q in list(scene.of_kind("fact", taught=True))[most:]}
    return replace(scene, questions=tuple(q for q in scene.questions if q.id not in gone))
