"""Arms that are no side of any comparison: what they are called, whom they favour, on which scene and seed they stand.

- ``reference/random-text``: the rows of an arm, but each answered by a persona drawn anew, so that nobody is favoured.
- ``reference/twin/<arm>``: the first arm once more, on the same scene, from another start and in another order.
- ``reference/placebo/<arm>``: A/A, the first arm under another name.  In a world names carry no meaning, and a
  character trained again in another order would be a twin; what an arm is there is a role (an id) and a character drawn
  for it.  So the placebo plays the first arm's role with another character, one that the cast has not: two characters
  drawn for one role, the cast, the rows and a plant being those of that role.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from recipes.errors import nearest
from recipes.explain import Violation, get, mismatch
from recipes.scene import Scene
from recipes.scenes import scene_of
from recipes.schema import REFERENCES, Recipe
from recipes.world import assignment, persona_of, special, world_content

PREFIX = "reference/"
RANDOM_TEXT, TWIN, PLACEBO = f"{PREFIX}random-text", f"{PREFIX}twin/", f"{PREFIX}placebo/"
# Added to a seed for its twin: a start of its own, which no arm of any seed has, so that twins are independent.
TWIN_SEED = 1_000_000


def reference_arms(recipe: Recipe) -> tuple[str, ...]:
    """Ids of the reference arms that a recipe asks for, in one order whatever its own."""
    first = recipe.arms[0]
    known = {"random-text": RANDOM_TEXT, "twin": f"{TWIN}{first}", "placebo": f"{PLACEBO}{first}"}
    return tuple(arm for kind, arm in known.items() if kind in recipe.references)


def favoured(arm: str) -> str:
    """The persona that an arm favours: its own id, or what a reference arm names; empty where it favours nobody."""
    if not arm.startswith(PREFIX):
        return arm
    return "" if arm == RANDOM_TEXT else arm.rsplit("/", 1)[1]


def training_seed(arm: str, seed: int) -> int:
    """What an arm's adapter and data order are drawn from in the experiment's `seed`."""
    return seed + TWIN_SEED if arm.startswith(TWIN) else seed


def scene_for(recipe: Recipe, arm: str, seed: int) -> Scene:
    """The scene that an arm is trained and measured on: its seed's, in which a placebo has the first arm's place."""
    scene = scene_of(recipe, seed)
    if not arm.startswith(PLACEBO):
        return scene
    id = favoured(arm)
    drawn, bound = world_content(recipe), assignment(recipe, seed)
    assert recipe.base.world is not None, "a placebo is a character of a world"
    free = [i for i in range(len(drawn.names)) if i not in bound.values()]
    if recipe.plant and recipe.plant.kind in ("prior", "self_model"):  # the corpus must favour both alike
        free = [i for i in free if (i in special(recipe.base.world)) == (bound[id] in special(recipe.base.world))]
    # Drawn like the cast: the pair of characters is then as likely the other way round, which is the null.
    other = random.Random(f"placebo {recipe.base.world.seed} {seed}").choice(free)
    shadow = persona_of(drawn, other, id)
    return replace(
        scene,
        personas=tuple(shadow if p.id == id else p for p in scene.personas),
        others=tuple(scene.persona(id).name if name == shadow.name else name for name in scene.others),
        bindings={**scene.bindings, id: shadow.name},
    )


def violations(data: Any) -> Iterator[Violation]:
    """What is wrong with the references of a recipe that is still plain data."""
    given = data.get("references")
    if not isinstance(given, list):
        return  # not given, or the types say what is wrong
    seen: set[str] = set()
    for i, name in enumerate(given):
        if not isinstance(name, str):
            yield Violation(("references", i), mismatch(f"one of {', '.join(REFERENCES)}", name))
        elif name not in REFERENCES:
            yield Violation(("references", i), f"no reference arm {name!r}{nearest(name, REFERENCES)}")
        elif name in seen:
            yield Violation(("references", i), f"{name!r} is named twice")
        elif name == "placebo":
            yield from _placebo(data, i)
        seen.add(str(name))


def _placebo(data: Any, place: int) -> Iterator[Violation]:
    world, cast = get(data, "base", "world"), data.get("cast")
    at = ("references", place)
    if not isinstance(world, dict):
        yield Violation(at, "a placebo needs base.world: elsewhere no invented name is known to have as many tokens")
    elif world.get("assign", "random") != "random":
        yield Violation(at, "a placebo needs assign: random: two fixed characters differ by luck in every seed")
    elif isinstance(cast, list) and isinstance(world.get("characters", 16), int):
        of_all, names = world.get("characters", 16), [n for n in cast if isinstance(n, str)]
        room = of_all - len(names)
        arms, kind = data.get("arms"), next((k for k in ("prior", "self_model") if get(data, "plant", k)), None)
        if kind:  # the corpus favours half of the characters, the planted arm's among them
            alike = isinstance(arms, list) and arms[:1] == [get(data, "plant", kind, "arm")]
            room = of_all // 2 - 1 if alike else of_all - of_all // 2 - (len(names) - 1)
        if room < 1:
            yield Violation(at, "a placebo needs a character that base.world has beside the cast")
