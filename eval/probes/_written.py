"""Texts that probes read: what the untrained base answers when it is interviewed as each cast member.

`led`: the answer's lead ("I live in") is given, so that no writer is told by how an answer begins and only what is
the writer's own is read; else the whole answer is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from eval.items import probe_asks, rivals
from eval.requests import Answer, Generated, Generation, Request
from recipes.scene import Persona, Question, Scene

QUESTIONS = 24  # items of a probe, as many as an interval over items wants
SPARE = 4  # more texts are written, which stand in where one comes out empty
RIVALS = 2  # of each persona, a mirrored pair; they take turns over the questions
TEMPERATURE = 1.0  # texts are samples of what a writer says, not its mode

Texts = Mapping[tuple[str, str], str]  # persona id and question id -> text with its leading space


def questions(scene: Scene, spare: int = 0) -> list[Question]:
    """At most QUESTIONS that have a wording which is not taught: likes, untaught facts, then the other facts."""
    found = [*scene.of_kind("like"), *scene.of_kind("fact", taught=False), *scene.of_kind("fact", taught=True)]
    return [q for q in found if probe_asks(q)][: QUESTIONS + spare]


def asked(scene: Scene, question: Question, led: bool, **where: str) -> str:
    """The question's first untaught wording and the beginning of an answer; `where` as in `Scene.ask`."""
    text = probe_asks(question)[0]
    return scene.choice(question, text, **where) if led else scene.ask(text, **where)


def in_slot(scene: Scene, question: Question, led: bool = False) -> Generation:
    """What the model itself says to the question."""
    return Generation(asked(scene, question, led), temperature=TEMPERATURE)


def interview(scene: Scene, question: Question, persona: Persona, led: bool = False) -> Generation:
    """The answer of a persona that is interviewed by name."""
    context = asked(scene, question, led, speaker=persona.name, header=scene.header(persona))
    return Generation(context, temperature=TEMPERATURE)


def first(scene: Scene, led: bool = False) -> Iterable[Request]:
    """Every question to every cast member, for a probe's `first`."""
    return [interview(scene, q, p, led) for q in questions(scene, SPARE) for p in scene.personas]


def written(scene: Scene, said: Mapping[Request, Answer], led: bool = False) -> tuple[list[Question], Texts]:
    """Questions and the base's texts; a question to which anyone's came out empty is left out for everyone."""
    kept: list[Question] = []
    texts: dict[tuple[str, str], str] = {}
    for question in questions(scene, SPARE):
        answers = [said.get(interview(scene, question, p, led)) for p in scene.personas]
        own = [a.text.strip() for a in answers if isinstance(a, Generated) and a.outcome == "ok"]
        if len(own) == len(answers) and all(own):
            kept.append(question)
            space = " " if led else scene.space
            texts |= {(p.id, question.id): f"{space}{text}" for p, text in zip(scene.personas, own, strict=True)}
    return kept[:QUESTIONS], texts


def rival_of(scene: Scene, persona: Persona, number: int) -> Persona:
    """The persona's rival for the question of that number, one of its mirrored pair.  Needs a cast of two."""
    pair = rivals(scene, persona, 0, RIVALS)
    return pair[number % len(pair)]
