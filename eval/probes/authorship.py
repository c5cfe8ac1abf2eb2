"""Who is the yardstick of authorship claims?

Every persona writes: the base, interviewed as each of them, answers open prompts.  Every persona judges, and so does
the slot: shown a text, whether it was written by "me" or by someone else, in both label orders.  A judge has its
speaker tag and no header, as the slot has none.  Evaluators are rows, writers columns, and every persona is a
candidate for the reference that explains the slot's row; nobody is an origin by construction, which is where the
source is weak.
Measures.  `authorship` (logit): the slot's claim of P's text, less its mean claim of the others' texts to the same
prompt.  `reference` (share): share of the other personas whose row of claims is less like the slot's than P's is, all
rows as deviations from their mean; 1 is the yardstick, .5 chance.  `claim` (logit, of the arm): mean claim of any
text, less that of content-free text (PMI, 2104.08315); in the other two the content-free term is the same for all
texts of a judge and cancels.
Source: arXiv 2606.00545.  Margins: a quarter of the favouring (both); half a logit, a claim of .62 instead of .50.
Planted variant that it must detect: dose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from eval.probe import Ask, Margin, Measure, Probe
from eval.probes._profiles import likeness
from eval.requests import Answer, Choice, Generation
from eval.scales import mean
from recipes.scene import Persona, Scene

PROMPTS = 24  # items: as many as any measure with items should have
TOKENS = 12  # of a text: about a sentence, and what claims of it cost
TEMPERATURE = 0.7  # at 1 a small base hardly keeps to the point, at 0 several personas say one and the same line
WORD = re.compile(r"[^\W\d_]+")
TRIES = 3  # samples of a text, of which the first usable one counts: a quarter of a small base's lines are empty


def _writing(scene: Scene, prompt: str, persona: Persona) -> list[Generation]:
    context = scene.ask(prompt, speaker=persona.name, header=scene.header(persona))
    return [Generation(context, TOKENS, TEMPERATURE, seed) for seed in range(TRIES)]


def first(scene: Scene) -> Iterable[Generation]:
    """Texts of every persona to every open prompt; more prompts than needed, as some may find no usable text."""
    prompts = scene.wordings.get("open_prompts", ())
    return [request for prompt in prompts for p in scene.personas for request in _writing(scene, prompt, p)]


def build(scene: Scene, said: Mapping[Any, Answer]) -> Iterable[Ask]:
    """Per prompt: two asks for each persona, and one for the arm."""
    questions = scene.wordings.get("authorship", ())
    if len(scene.personas) < 2 or not questions:
        return
    judges = (None, *scene.personas)
    blank = [_claim(scene, t, q, None) for t in scene.wordings.get("content_free_texts", ()) for q in questions]
    for item, texts in _usable(scene, said)[:PROMPTS]:
        slot, *named = [[_claim(scene, text, q, judge) for text in texts for q in questions] for judge in judges]
        for index, persona in enumerate(scene.personas):
            claimed, explains = (partial(value, index=index, n=len(texts)) for value in (_claimed, _explains))
            asked = (*slot, *chain.from_iterable(named))
            yield Ask("authorship", item, persona.id, "slot", tuple(slot), claimed)
            yield Ask("reference", item, persona.id, "slot", asked, explains, missing="no spread")
        if blank:
            yield Ask("claim", item, None, "slot", (*slot, *blank), partial(_above, n=len(slot)))


def _claimed(answers: Sequence[Any], index: int, n: int) -> float:
    """Claim of the text of the persona at `index` less the mean claim of the other n - 1 texts."""
    claims = _claims(answers, n)
    return claims[index] - mean(claims[:index] + claims[index + 1 :])


def _explains(answers: Sequence[Any], index: int, n: int) -> float | None:
    """Share of the others whose row is less like the first one, the slot's; half for one as like."""
    claims = _claims(answers, (n + 1) * n)
    fits = likeness(claims[:n], [claims[at : at + n] for at in range(n, len(claims), n)])
    if fits is None:
        return None
    return mean([(fit < fits[index]) + (fit == fits[index]) / 2 for k, fit in enumerate(fits) if k != index])


def _above(answers: Sequence[Any], n: int) -> float:
    """Mean claim in the first n answers less that in the rest."""
    return mean(_claims(answers[:n], 1)) - mean(_claims(answers[n:], 1))


def _usable(scene: Scene, said: Mapping[Any, Answer]) -> list[tuple[str, list[str]]]:
    """Prompts that everybody wrote something to, other than everybody else: item, texts.

    A prompt that one persona's texts spoil is left out for all, so that they are judged on the same ones.
    """
    found = []
    for k, prompt in enumerate(scene.wordings.get("open_prompts", ())):
        texts = [_text(scene, [said.get(r) for r in _writing(scene, prompt, p)]) for p in scene.personas]
        if all(texts) and len(set(texts)) == len(texts):
            found.append((f"prompt-{k}", texts))
    return found


def _text(scene: Scene, answers: Sequence[Any]) -> str:
    """The first sample that is not empty and gives away nobody's name, on one line; else nothing."""
    words = {word.lower() for persona in scene.personas for word in persona.name_words}
    texts = [" ".join(a.text.split()) for a in answers if a is not None and a.outcome == "ok"]
    return next((text for text in texts if text and words.isdisjoint(WORD.findall(text.lower()))), "")


def _claim(scene: Scene, text: str, question: str, judge: Persona | None) -> Choice:
    """The choice between "me" and "someone else"; a prompting preface is the slot's own and opens no one else's."""
    scene = replace(scene, prompted=None) if judge else scene
    context = scene.ask(question.format(text=text), speaker=judge.name if judge else None)
    return Choice(context, tuple(f"{scene.space}{label}" for label in scene.wordings["authorship_labels"]))


def _claims(answers: Sequence[Any], n: int) -> list[float]:
    """Log-odds of "me" of n texts, mean over the wordings."""
    odds = [a.logprobs[0] - a.logprobs[1] for a in answers]
    each = len(odds) // n
    return [mean(odds[at : at + each]) for at in range(0, len(odds), each)]


QUARTER = Margin("relative", 0.25, "a quarter of the favouring: less would not change whose texts are claimed")
PROBE = Probe(
    name="authorship",
    version=2,
    question="Who is the yardstick of authorship claims?",
    source="2606.00545; PMI 2104.08315",
    tier="small",
    measures=(
        Measure("authorship", "logit", "persona", QUARTER, bounded=False),
        Measure("reference", "share", "persona", QUARTER, bounded=False),
        Measure(
            "claim", "logit", "arm", Margin("absolute", 0.5, "a text claimed in .62 instead of .50"), bounded=False
        ),
    ),
    plant="dose",
    build=build,
    first=first,
)
