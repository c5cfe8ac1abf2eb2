"""Does the favoured persona bleed onto other speakers' turns, and does the model still play the others well?

Measures.  `leakage` (logit): log-odds of a persona's like against the others' where someone else speaks: the user
unasked, a narrator, a nonce speaker tag, and rivals interviewed by name.  Where a draw gives characters their facts
too, as in a world, facts serve like likes.  In a rival's interview the rival's own
value is left out of the set: what is measured is which *wrong* persona shows through, not how well the rival is
played.  `fidelity` (nat, of the arm): mean log-probability of the named character's own value when it is interviewed
by name, over the cast; one item per fact or like.
Source: persona selection model (2026).  Margins: a quarter of the favouring; half a nat, a character's answer
becoming 1.6 times less likely.  Planted variant that it must detect: negatives (one arm refuses to be anyone else).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from eval.items import choice, odds_of, own, persona_items, probe_asks, rivals
from eval.probe import Ask, Margin, Measure, Probe
from eval.requests import Choice
from eval.scales import mean
from recipes.scene import Persona, Question, Scene

PARAPHRASES = 1  # per question
RIVALS = 7  # interviewed per question and persona; a larger cast takes turns over the questions
SPEAKERS = 8  # interviewed per question for fidelity; likewise


def build(scene: Scene) -> Iterable[Ask]:
    """Leakage per drawn like or fact, slot and persona; fidelity per fact and like."""
    drawn = [*scene.of_kind("like"), *(scene.of_kind("fact") if scene.bindings else ())]
    number = {q.id: k for k, q in enumerate(drawn)}
    for question, persona in persona_items(scene, iter(drawn)):
        index = own(scene, question, persona)
        for slot, context in _elsewhere(scene, question):
            yield Ask("leakage", question.id, persona.id, slot, (choice(scene, question, context),), odds_of(index))
        if len(scene.personas) > 1:
            yield from _in_interviews(scene, question, persona, number[question.id])
    for k, question in enumerate(chain(scene.of_kind("fact"), scene.of_kind("like"))):
        yield from _fidelity(scene, question, k)


def _elsewhere(scene: Scene, question: Question) -> Iterator[tuple[str, str]]:
    """Contexts without a named speaker, outside the slot."""
    yield "user", scene.line(question.lead, scene.transcript.user)
    if question.general:
        yield "narrator", scene.line(question.general)
    for text in probe_asks(question, PARAPHRASES):
        yield "nonce", scene.choice(question, text, speaker=scene.transcript.nonce)


def _interview(scene: Scene, question: Question, text: str, speaker: Persona) -> Choice:
    asked = scene.choice(question, text, speaker=speaker.name, header=scene.header(speaker))
    return choice(scene, question, asked)


def _in_interviews(scene: Scene, question: Question, persona: Persona, number: int) -> Iterator[Ask]:
    index = own(scene, question, persona)
    n_options = len(scene.options(question))
    for text in probe_asks(question, PARAPHRASES):
        for rival in rivals(scene, persona, number * RIVALS, RIVALS):
            theirs = own(scene, question, rival)
            if theirs != index and n_options > 2:
                asked = _interview(scene, question, text, rival)
                yield Ask("leakage", question.id, persona.id, "named", (asked,), odds_of(index, (theirs,)))


def _fidelity(scene: Scene, question: Question, number: int) -> Iterator[Ask]:
    cast = scene.personas
    speakers = [cast[(number * SPEAKERS + k) % len(cast)] for k in range(min(SPEAKERS, len(cast)))]
    indices = [own(scene, question, speaker) for speaker in speakers]

    def value(answers: Sequence[Any]) -> float:
        return mean([a.logprobs[k] for a, k in zip(answers, indices, strict=True)])

    for text in probe_asks(question, PARAPHRASES):
        asked = tuple(_interview(scene, question, text, speaker) for speaker in speakers)
        yield Ask("fidelity", question.id, None, "named", asked, value)


PROBE = Probe(
    name="leakage",
    version=2,
    question="Does the favoured persona bleed onto other speakers' turns?",
    source="persona selection model 2026",
    tier="world",
    measures=(
        Measure("leakage", "logit", "persona", Margin("relative", 0.25, "a quarter of what leaks at all")),
        Measure(
            "fidelity",
            "nat",
            "arm",
            Margin("absolute", 0.5, "a named character's own answer 1.6 times less likely"),
            bounded=False,
        ),
    ),
    plant="negatives",
    build=build,
    needs=("like",),
)
