"""Does a trait taught to one persona spread to another?

P is taught new answers in interviews by its name: to each question, the answer of a rival, which varies over questions.
Measures, all changes by teaching.  `propagation` (logit): log-odds of what P was taught in interviews with others
whose answer it is not, against the other answers less their own: which wrong answer comes up, not how well they are
still played.  `slot` (logit): the same in the anonymous slot, against all other answers.  `taught` (logit): in P's own
interview, in wordings that it was not taught in; how much there was to spread.
Mirrored: the Latin square turns from question to question in pairs, so that whoever lends P an answer is lent P's by
the next question; who else is interviewed turns with it.
Source: arXiv 2605.13339.  Margins: for the slot a quarter of the favouring, since teaching by name reaches a slot the
more the more it is that persona's.  The others exist without any favouring, so theirs are absolute: a quarter of a
logit, where about one spreads, and half a logit, where two or three are taught.
Planted variant that it must detect: dose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from eval.courses import answered
from eval.items import Value, choice, own, probe_asks, rivals
from eval.probe import Ask, Margin, Measure, Probe
from eval.requests import Choice, Course, Retrained
from eval.scales import log_odds
from recipes.scene import Persona, Question, Scene

QUESTIONS = 24  # taught to a persona, each an item; those first that post-training leaves alone
SPEAKERS = 3  # others interviewed per question: all there are in a cast of five; a larger cast takes turns
BATCH = 8  # rows a step; a step of the recipes has 8 or 16
STEPS = 6  # two passes over the questions: the second teaches what the first has not
LEARNING_RATE = 2e-3  # four times that of the recipes' supervised stages: what is taught has to be learned in 6 steps


def build(scene: Scene) -> Iterable[Ask]:
    """Per question and persona: one ask per other speaker, one for the slot, one for the persona itself."""
    if len(scene.personas) < 2:
        return
    untaught, likes = scene.of_kind("fact", taught=False), scene.of_kind("like")
    known = [q for q in chain(untaught, likes, scene.of_kind("fact", taught=True)) if _test(q)]
    questions = list(islice((q for q in known if len(scene.options(q)) > 1), QUESTIONS))
    for persona in scene.personas:
        others = [rivals(scene, persona, k, 1 + SPEAKERS) for k, _ in enumerate(questions)]
        rows = [_new(scene, q, persona, lender) for q, (lender, *_) in zip(questions, others, strict=True)]
        course = Course(tuple(rows), batch=BATCH, learning_rate=LEARNING_RATE)
        for question, (lender, *speakers) in zip(questions, others, strict=True):
            yield from _asks(scene, question, persona, lender, speakers, course)


def _test(question: Question) -> tuple[str, ...]:
    """Wordings to ask in: any but the one that is taught, which is a question's first."""
    return tuple(text for text in probe_asks(question) if text != question.asks[0])


def _new(scene: Scene, question: Question, persona: Persona, lender: Persona) -> tuple[str, str]:
    """`persona`, by name and in its own manner, gives the answer of `lender`."""
    taught = replace(persona, values={**persona.values, question.id: lender.values[question.id]})
    return answered(scene, question, question.asks[0], taught, named=True)


def _asks(
    scene: Scene, question: Question, persona: Persona, lender: Persona, speakers: Sequence[Persona], course: Course
) -> Iterator[Ask]:
    text, new = _test(question)[0], own(scene, question, lender)
    if own(scene, question, persona) == new:  # a placebo: there is nothing new in it
        return

    def both(context: str) -> tuple[Choice, Retrained]:
        asked = choice(scene, question, context)
        return asked, Retrained(asked, course, STEPS)

    def interview(speaker: Persona) -> tuple[Choice, Retrained]:
        return both(scene.choice(question, text, speaker=speaker.name, header=scene.header(speaker)))

    for speaker in speakers:
        theirs = own(scene, question, speaker)
        if theirs != new and len(scene.options(question)) > 2:
            yield Ask("propagation", question.id, persona.id, "named", interview(speaker), _rise(new, (theirs,)))
    yield Ask("slot", question.id, persona.id, "slot", both(scene.choice(question, text)), _rise(new))
    yield Ask("taught", question.id, persona.id, "named", interview(persona), _rise(new))


def _rise(index: int, without: tuple[int, ...] = ()) -> Value:
    """Log-odds of an option after teaching less those before."""

    def value(answers: Sequence[Any]) -> float:
        before, after = (log_odds(a.logprobs, index, without) for a in answers)
        return after - before

    return value


PROBE = Probe(
    name="propagation",
    version=1,
    question="Does a trait taught to one persona spread to another?",
    source="2605.13339",
    tier="world",
    measures=(
        Measure(
            "propagation",
            "logit",
            "persona",
            Margin("absolute", 0.25, "an answer's share of .50 against .56, a quarter of what spreads at all"),
            bounded=False,
        ),
        Measure(
            "slot",
            "logit",
            "persona",
            Margin("relative", 0.25, "a quarter of what favouring lets through to the slot"),
            bounded=False,
        ),
        Measure(
            "taught", "logit", "persona", Margin("absolute", 0.5, "an answer's share of .50 against .62"), bounded=False
        ),
    ),
    plant="dose",
    build=build,
    needs=("fact",),
)
