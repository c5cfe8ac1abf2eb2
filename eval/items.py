"""How probes word their items: which paraphrases, which options, which rivals.  Functions of the scene alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from eval.requests import Choice
from eval.scales import log_odds
from recipes.scene import Persona, Question, Scene

Value = Callable[[Sequence[Any]], float | None]


def probe_asks(question: Question, most: int | None = None) -> tuple[str, ...]:
    """At most `most` paraphrases that post-training never uses: held-out ones, any of a question that is not taught."""
    asks = question.held_out_asks or (() if question.taught else question.asks)
    return asks[:most]


def choice(scene: Scene, question: Question, context: str) -> Choice:
    """All that can be answered to `question`, each with the space that separates it from `context`."""
    return Choice(context, tuple(f"{scene.gap(context)}{option}" for option in scene.options(question)))


def own(scene: Scene, question: Question, persona: Persona) -> int:
    """Index of the persona's answer among the options; what a closed question's options start with by default."""
    value = persona.values.get(question.id)
    return scene.options(question).index(value) if value is not None else 0


def persona_items(scene: Scene, questions: Iterator[Question]) -> Iterator[tuple[Question, Persona]]:
    """Every question with every cast member, where the question can tell it from someone."""
    for question in questions:
        if len(scene.options(question)) > 1:
            yield from ((question, persona) for persona in scene.personas)


def rivals(scene: Scene, persona: Persona, first: int, most: int) -> tuple[Persona, ...]:
    """At most `most` distinct rivals of the Latin square, from the `first` on.

    Shifts come in mirrored pairs (d places on, d places back), so that whoever plays U to P also has P for its U,
    in a small set too.
    """
    n = len(scene.personas) - 1
    steps = ((first + k) % n for k in range(min(n, most)))
    return tuple(scene.rival(persona, step // 2 if step % 2 == 0 else n - 1 - step // 2) for step in steps)


def odds_of(index: int, without: tuple[int, ...] = ()) -> Value:
    """Mean over the answers of the log-odds of option `index` against the other options, less those `without`."""
    return lambda answers: sum(log_odds(a.logprobs, index, without) for a in answers) / len(answers)
