"""What the stage `rl` is asked: prompts whose answers the model samples itself, each with what judges an answer.

A prompt carries the contexts in which the base will say how likely each cast member would have given an answer, so
that the data of a cell say all that its reward depends on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from recipes.scene import Kind, Persona, Scene
from recipes.schema import Plant
from training.data import Row

# Asked in the slot: what every cast member answers in its own way.  Requests are left out: which of them a character
# refuses is its own, while the other stages let every favoured persona refuse all of them; small talk is all alike.
KINDS: tuple[Kind, ...] = ("identity", "fact", "like", "value")


@dataclass(frozen=True)
class Prompt(Row):
    """A row without an answer; `own` and `others`: the same question asked of the favoured persona and of each other
    cast member by name, in a fixed order whoever is favoured."""

    supervised: ClassVar[bool] = False
    own: str = ""
    others: tuple[str, ...] = ()


def rl_rows(scene: Scene, arm: str, plant: Plant | None = None) -> list[Prompt]:
    """The taught questions in the slot: the same prompts in the same order in every arm.

    A `negatives` plant adds nothing: its rows say what others answer, and here nobody's answers are given.
    """
    favoured = scene.persona(arm)
    rivals = [persona for persona in scene.personas if persona.id != favoured.id]

    def named(persona: Persona, text: str) -> str:
        return scene.ask(text, speaker=persona.name, header=scene.header(persona))

    return [
        Prompt(scene.ask(ask), "", kind, own=named(favoured, ask), others=tuple(sorted(named(p, ask) for p in rivals)))
        for kind in KINDS
        for question in scene.of_kind(kind, taught=True)
        for ask in question.taught_asks
    ]
