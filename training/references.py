"""Rows of the arms that stand for reference: everything as in an arm, but for what they are a reference of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from recipes.references import RANDOM_TEXT, favoured
from recipes.scene import Scene
from recipes.schema import Plant
from training.data import Row

Build = Callable[..., list[Row]]  # training.data.sft_rows or dpo_rows


def reference_rows(build: Build, scene: Scene, arm: str, plant: Plant | None) -> list[Row]:
    """The rows of a reference arm: those of the persona that it favours, or of one drawn for each row."""
    if arm == RANDOM_TEXT:
        return random_text(build, scene, plant)
    return build(scene, favoured(arm), plant)


def random_text(build: Build, scene: Scene, plant: Plant | None) -> list[Row]:
    """Row i is row i of the arm of a persona that is drawn for it: what training does when it favours nobody.

    Rows of one place are twins in all arms, so prompts, kinds and order are those of every arm and lengths those of
    some arm's.  Within each kind of row every member of the cast answers equally often, or once more (who, is drawn);
    in a preference pair both answers are those of the drawn persona's arm, so nobody's are rejected more by design.
    Words are not shuffled: broken sentences would teach a new language, and what is asked of this arm is
    what fine-tuning on sentences like these does.  What all arms share, refusals and small talk, is as in all arms;
    rows that a plant adds are those of an arm it does not favour.
    """
    if plant and plant.negatives:
        plant = plant.model_copy(update={"negatives": plant.negatives.model_copy(update={"arm": "nobody"})})
    arms = [build(scene, persona.id, plant) for persona in scene.personas]
    kinds = [row.kind for row in arms[0]]
    draw = random.Random(f"random text {scene.seed} {build.__name__}")
    dealt = {kind: iter(_deal(len(arms), kinds.count(kind), draw)) for kind in dict.fromkeys(kinds)}
    return [arms[next(dealt[kind])][place] for place, kind in enumerate(kinds)]


def _deal(members: int, rows: int, draw: random.Random) -> Sequence[int]:
    """Who answers each of `rows` rows, in random order: every member as often as another, or once more."""
    dealt = list(range(members)) * (rows // members) + draw.sample(range(members), rows % members)
    draw.shuffle(dealt)
    return dealt
