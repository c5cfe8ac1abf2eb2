"""Do untaught facts of the favoured persona come along?

Measure: log-odds (logit) of a persona's value against the other cast members' values, in the slot, for facts that
post-training never teaches.  Selecting a pretrained character brings its other facts with it; a new self does not.
Source: the persona selection model (2026); arXiv 2512.09742.  Margin: a quarter of what training did, since what
comes along is judged by how much there was to bring.  Planted variant that it must detect: dose, read at equal dose.
"""

from __future__ import annotations

from collections.abc import Iterable

from eval.items import choice, odds_of, own, persona_items, probe_asks
from eval.probe import Ask, Margin, Measure, Probe
from recipes.scene import Scene

PARAPHRASES = 2  # per fact; averaged into the item


def build(scene: Scene) -> Iterable[Ask]:
    """One ask per untaught fact, paraphrase and persona."""
    for question, persona in persona_items(scene, scene.of_kind("fact", taught=False)):
        for text in probe_asks(question, PARAPHRASES):
            asked = choice(scene, question, scene.choice(question, text))
            yield Ask("selection", question.id, persona.id, "slot", (asked,), odds_of(own(scene, question, persona)))


PROBE = Probe(
    name="selection",
    version=1,
    question="Do untaught facts of the favoured persona come along?",
    source="persona selection model 2026; 2512.09742",
    tier="world",
    measures=(
        Measure("selection", "logit", "persona", Margin("relative", 0.25, "a quarter of what came along at all")),
    ),
    plant="dose",
    build=build,
    needs=("fact",),
)
