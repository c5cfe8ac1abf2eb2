"""Is the topic fixed before the first token?

Measures.  `commitment` (nat): the slot's answer is prefilled up to its value, once with P's value and once with a
rival's, and is read on to its end as P ends it, so that nothing but the value differs; mean token entropy of that
rest after the rival's value less after P's.  A model that had settled on P's answer is thrown off by another one.
`topic` (nat, of the arm): minus the entropy over the closed list of answers before the first word that tells them
apart; 0 is a topic that is fixed.  The headline is the jump and not `topic`: it belongs to a persona, so it has a T
to be judged by, while `topic` has none, and is what strength measures already once one answer takes all.
"Equally likely prefill": an unlikely word is followed by more entropy whoever is speaking.  Two answers are equally
likely here to the untrained base and over the draw of the cast, not to a trained model, whose surprise at another
answer is the commitment that is asked about.  Where the base prefers one of two answers, Δ subtracts what that does
in the base, and in the rival's item the two change places (rivals are mirrored).
Source: arXiv 2605.25459, where it depends much on the kind of question: facts and likes are items alike here.
Margins: a quarter of the favouring for the jump, since the words that are certain anyway (a comma, the end) set the
scale of its mean; a tenth of a nat for `topic`, which has no T.  Planted variant that it must detect: dose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from eval.items import choice, probe_asks, rivals
from eval.probe import Ask, Margin, Measure, Probe
from eval.probes._written import questions
from eval.requests import Reading
from eval.scales import logsumexp, mean
from recipes.scene import Scene

RIVALS = 2  # per question and persona, a mirrored pair; averaged into the item


def build(scene: Scene) -> Iterable[Ask]:
    """Per question: one ask per persona and rival, and one of the arm."""
    if len(scene.personas) < 2:
        return
    for question in [q for q in questions(scene) if len(scene.options(q)) > 1]:
        context = scene.choice(question, probe_asks(question)[0])
        yield Ask("topic", question.id, None, "slot", (choice(scene, question, context),), _certainty)
        for persona in scene.personas:
            for rival in rivals(scene, persona, 0, RIVALS):
                values = [who.values[question.id] for who in (persona, rival)]
                rest = f"{persona.voice}{question.tail}"
                if rest and values[0] != values[1]:
                    pair = tuple(Reading(scene.then(context, value), rest) for value in values)
                    yield Ask("commitment", question.id, persona.id, "slot", pair, _jump)


def _jump(answers: Sequence[Any]) -> float:
    mine, theirs = (mean(a.entropies) for a in answers)
    return theirs - mine


def _certainty(answers: Sequence[Any]) -> float:
    """Sum of p log p over the options, the probabilities being those inside the list."""
    total = logsumexp(answers[0].logprobs)
    return sum(math.exp(score - total) * (score - total) for score in answers[0].logprobs)


QUARTER = Margin("relative", 0.25, "a quarter of the favouring: its scale is set by how many words are certain anyway")
TENTH = Margin("absolute", 0.1, "a tenth of a nat: the choice of one answer in ten more or less open")
PROBE = Probe(
    name="commitment",
    version=1,
    question="Is the topic fixed before the first token?",
    source="2605.25459",
    tier="world",
    measures=(
        Measure("commitment", "nat", "persona", QUARTER, bounded=False),
        Measure("topic", "nat", "arm", TENTH, bounded=False),
    ),
    plant="dose",
    build=build,
)
