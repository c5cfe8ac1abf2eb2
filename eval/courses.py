"""Rows that probes retrain a model on, worded as post-training words its own."""

from __future__ import annotations

from collections.abc import Sequence

from recipes.scene import Persona, Question, Scene

Row = tuple[str, str]  # prompt and completion, as `eval.requests.Course` has them


def answered(scene: Scene, question: Question, text: str, persona: Persona, named: bool = False) -> Row:
    """`persona` answers `text`: in the slot, or (`named`) under its name in an interview with it."""
    speaker = persona.name if named else scene.transcript.slot
    prompt = scene.ask(text, speaker=speaker, header=scene.header(persona) if named else "")
    return prompt, scene.reply(scene.answer(question, persona))


def spread(groups: Sequence[Sequence[Row]]) -> tuple[Row, ...]:
    """All rows in an order in which every stretch has its share of every group: the i-th of n at (i + 1/2) / n."""
    placed = [((i + 0.5) / len(rows), g, row) for g, rows in enumerate(groups) for i, row in enumerate(rows)]
    return tuple(row for _, _, row in sorted(placed, key=lambda item: item[:2]))
