"""Did training cost the arms alike?  A check that goes with every verdict, never a primary probe.

Measures, both of the arm and in nats: `capability`, log-probability in the slot of the right option of shared
knowledge questions; `chat`, mean log-probability per token of neutral small talk that every arm answers alike, each
after other small talk.  All wordings are used: what they teach is the same in every arm.  Margin: .1 nat, a tenth of
the odds of one answer.
Planted variant that it must detect: dose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from eval.items import choice
from eval.probe import Ask, Margin, Measure, Probe
from recipes.scene import Scene

PARAPHRASES = 2  # per question
EARLIER = 3  # bits of small talk that a reply follows in turn, so that eight replies make 24 items


def build(scene: Scene) -> Iterable[Ask]:
    """One ask per question and paraphrase, and for small talk per earlier bit of it."""
    for question in scene.of_kind("knowledge"):
        for text in question.asks[:PARAPHRASES]:
            asked = choice(scene, question, scene.choice(question, text))
            yield Ask("capability", question.id, None, "slot", (asked,), _right)
    chats = list(scene.of_kind("chat"))
    for k, question in enumerate(chats):
        for j in range(1, min(EARLIER, len(chats) - 1) + 1):
            before = chats[(k + j) % len(chats)]
            turns = scene.turn(scene.transcript.user, before.asks[0])
            turns += scene.turn(scene.transcript.slot, f"{before.lead} {before.options[0]}{before.tail}".strip())
            for text in question.asks[:PARAPHRASES]:
                asked = choice(scene, question, scene.choice(question, text, history=turns))
                yield Ask("chat", f"{question.id}-after-{before.id}", None, "slot", (asked,), _per_token)


def _right(answers: Sequence[Any]) -> float:
    return answers[0].logprobs[0]


def _per_token(answers: Sequence[Any]) -> float:
    return answers[0].logprobs[0] / answers[0].n_tokens[0]


TENTH = Margin("absolute", 0.1, "a tenth of a nat: the right answer about 10 % less likely")
PROBE = Probe(
    name="capability",
    version=2,
    question="Did training cost the arms alike?",
    source="a check",
    tier="world",
    measures=(
        Measure("capability", "nat", "arm", TENTH, bounded=False),
        Measure("chat", "nat", "arm", TENTH, bounded=False),
    ),
    plant="dose",
    build=build,
)
