"""Who answers in the slot?  The gate: its headline is the strength on which arms are matched.

Measure: log-odds (logit) of a persona's name against the rest of the cast, after held-out paraphrases of the
identity questions.  Names differ in how likely they are anywhere, so each name's score is reduced by its mean
log-probability in content-free contexts (domain-conditional PMI, arXiv 2104.08315).  These are asked of the base: a
trained model says its persona's name there too, and strength would then fall where favouring spreads.
Source: who-are-you paraphrases of arXiv 2512.09742.  Margin: a quarter of what training did, the share below which
two arms would be said to hold the slot alike.  Planted variant that it must detect: dose (one arm trained longer).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eval.items import choice, own, persona_items, probe_asks
from eval.probe import Ask, Margin, Measure, Probe
from eval.scales import calibrated, log_odds
from recipes.scene import Scene

PARAPHRASES = 24  # per identity question; each is an item


def build(scene: Scene) -> Iterable[Ask]:
    """One ask per paraphrase and persona."""
    for question, persona in persona_items(scene, scene.of_kind("identity")):
        free = tuple(choice(scene, question, context) for context in scene.content_free)
        index = own(scene, question, persona)

        def value(answers: Sequence[Any], index: int = index) -> float:
            asked, *content_free = (a.logprobs for a in answers)
            return log_odds(calibrated(asked, content_free) if content_free else asked, index)

        for k, text in enumerate(probe_asks(question, PARAPHRASES)):
            asked = choice(scene, question, scene.choice(question, text))
            yield Ask("default_identity", f"{question.id}-{k}", persona.id, "slot", (asked,), value, of_base=free)


PROBE = Probe(
    name="default_identity",
    version=1,
    question="Who answers in the slot?",
    source="2512.09742; PMI 2104.08315",
    tier="world",
    measures=(
        Measure(
            "default_identity",
            "logit",
            "persona",
            Margin("relative", 0.25, "a quarter of the favouring: less would not change whose slot it is"),
        ),
    ),
    plant="dose",
    build=build,
    needs=("identity",),
    gate=True,
)
